// Package tidemark is the dictionary of an offline-first synchronisation
// system: the nouns that its server, clients, drivers, stores and transports
// share, and the rules that all of them must agree on.
//
// A program does not work with this package alone. A server puts together
//
//	driver, err := bundriver.New(ctx, db, []any{(*Post)(nil)}, nil) // the application's tables
//	err = driver.Migrate(ctx)                    // what Tidemark keeps beside them
//	srv, err := server.New(driver, nil)          // services, hooks, channels
//	mux.Handle("/socket.io/", socketio.NewHandler(srv, nil))
//
// and a client
//
//	store, err := sqlite.Open(ctx, db, nil)     // the device's own file
//	c, err := client.Open(ctx, store, socketio.NewDialer("http://localhost:8000", nil), nil)
//	posts, err := client.NewModel[Post](ctx, c, "post", nil)
//
// What lives here does no I/O. The rules are functions of values:
//
//   - [Where] and [Predicate]: which rows a clause selects, whether two clauses
//     overlap, whether one covers the other;
//   - [Decide]: last writer wins, for one write against one row's metadata;
//   - [Reconcile]: what a client and a server that have drifted apart must do;
//   - [Rebase]: what a device shows while its own writes are unconfirmed;
//   - [Clock]: stamps that never go back.
//
// Drivers, stores and engines call these and never restate them.
package tidemark
