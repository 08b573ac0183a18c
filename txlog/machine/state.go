package machine

// Reader is an ordered view of the state. A key or value that it hands to a
// callback holds until the callback returns; one that Get returns must not be
// changed. It must not keep the keys it is given.
type Reader interface {
	Get(key []byte) (value []byte, found bool, err error)
	// Scan goes through [start, end) in key order until fn returns false; a nil
	// end is the end of the state.
	Scan(start, end []byte, fn func(key, value []byte) (more bool, err error)) error
}

// State is a view that can be written and sees its own writes. It may keep the
// slices given to Set and Delete; the machine does not touch them again.
type State interface {
	Reader
	Set(key, value []byte)
	Delete(key []byte)
}
