// Package layout holds tests about the repository itself: which package may
// import which, and that the documents name tests that exist.
package layout
