package participant

import (
	"encoding/json"
	"fmt"
	"io"
)

// CaptureJSON captures a state that is small enough to be encoded at once, as JSON:
// what OwnState.Capture returns for it, a copy that further changes of v leave
// alone. RestoreJSON reads it back.
func CaptureJSON(v any) (io.WriterTo, error) {
	data, err := json.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("participant: capture: %w", err)
	}
	return captured(data), nil
}

// RestoreJSON reads to r's end, as Restore must, before it changes v: what CaptureJSON
// captured.
func RestoreJSON(r io.Reader, v any) error {
	data, err := io.ReadAll(r)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(data, v); err != nil {
		return fmt.Errorf("participant: restore: %w", err)
	}
	return nil
}

// captured is written whole each time.
type captured []byte

func (c captured) WriteTo(w io.Writer) (int64, error) {
	n, err := w.Write(c)
	return int64(n), err
}
