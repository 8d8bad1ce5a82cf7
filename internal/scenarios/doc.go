// Package scenarios has the end-to-end tests of docs/scenarios.md: what happens
// when real parts meet, namely a server over PostgreSQL and over SQLite, the
// websocket, clients with files of their own, and a JavaScript client that is not
// ours. It has no code.
package scenarios
