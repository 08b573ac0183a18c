package participant

import (
	"encoding/json"
	"fmt"
	"io"
)

// CaptureJSON captures a state that is small enough to be encoded at once, as JSON:
// what OwnState.Capture returns for it, a copy that further changes of v leave
// alone. json.NewDecoder reads it back in Restore.
func CaptureJSON(v any) (io.WriterTo, error) {
	data, err := json.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("participant: capture: %w", err)
	}
	return captured(data), nil
}

// captured is written whole each time.
type captured []byte

func (c captured) WriteTo(w io.Writer) (int64, error) {
	n, err := w.Write(c)
	return int64(n), err
}
