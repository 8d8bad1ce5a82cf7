// Package pgfaults has the tests of what a real PostgreSQL, and the connection to
// it, do to a driver in the worst moments: a connection that is cut at each message of
// the protocol, COMMIT included, sessions that are ended, deadlocks, time-outs, a
// server that crashes under writers; and whether a row stays linearizable all the
// while. It has no code.
package pgfaults
