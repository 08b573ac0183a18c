// Package pgserver runs a PostgreSQL of its own, in a directory of its own, for
// tests and demonstrations. It is reached through a socket in that directory
// alone. PostgreSQL refuses to run as root: then it runs as another user.
package pgserver
