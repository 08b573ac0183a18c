// Package coordinator runs a group's transactions on the node that leads it.
package coordinator
