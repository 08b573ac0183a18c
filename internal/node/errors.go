package node

import "errors"

var (
	// ErrNotReady: the node is not yet, or no longer, able to do its part; the text
	// says what it waits for.
	ErrNotReady = errors.New("the node is not ready")
	// ErrRemoved: the node has left the cluster, on an operator's request.
	ErrRemoved = errors.New("the node was removed from the cluster")
	// ErrReplaced: another data directory has taken the node's place.
	ErrReplaced = errors.New("the node was replaced: another data directory has its name")
	// ErrClosed: the node is closed.
	ErrClosed = errors.New("the node is closed")
)
