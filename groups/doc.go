// Package groups says what a consistency group is and who is in it.
package groups
