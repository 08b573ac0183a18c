package node

import "errors"

var (
	// ErrNotReady: the node is not yet, or no longer, able to do its part; the text
	// says what it waits for.
	ErrNotReady = errors.New("the node is not ready")
	// ErrClosed: the node is closed.
	ErrClosed = errors.New("the node is closed")
)
