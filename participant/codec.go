package participant

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
)

// Content types of payloads between a caller and a handler.
const (
	ContentJSON     = "application/json"
	ContentProtobuf = "application/protobuf"
	ContentBytes    = "application/octet-stream"
	ContentText     = "text/plain"
)

// encode turns a Go value into bytes: []byte and string as they are, a protobuf
// message in its (deterministic) wire form, everything else as JSON.
func encode(v any) (data []byte, contentType string, err error) {
	switch v := v.(type) {
	case nil:
		return nil, "", nil
	case []byte:
		return v, ContentBytes, nil
	case string:
		return []byte(v), ContentText, nil
	case proto.Message:
		data, err = proto.MarshalOptions{Deterministic: true}.Marshal(v)
		if err != nil {
			return nil, "", fmt.Errorf("participant: encode %T as protobuf: %w", v, err)
		}
		return data, ContentProtobuf, nil
	}
	data, err = json.Marshal(v)
	if err != nil {
		return nil, "", fmt.Errorf("participant: encode %T as JSON: %w", v, err)
	}
	return data, ContentJSON, nil
}

// decode is encode's inverse: out is a *[]byte, a *string, a protobuf message or
// a pointer to what JSON can fill. A protobuf message is also read from JSON when
// the content type says so. A nil out drops the data.
func decode(data []byte, contentType string, out any) error {
	switch out := out.(type) {
	case nil:
		return nil
	case *[]byte:
		*out = bytes.Clone(data)
		return nil
	case *string:
		*out = string(data)
		return nil
	case proto.Message:
		var err error
		if contentType == ContentJSON {
			err = protojson.Unmarshal(data, out)
		} else {
			err = proto.Unmarshal(data, out)
		}
		if err != nil {
			return fmt.Errorf("participant: decode %T: %w", out, err)
		}
		return nil
	}
	if rv := reflect.ValueOf(out); rv.Kind() != reflect.Pointer || rv.IsNil() {
		return fmt.Errorf("participant: decode into %T: want a non-nil pointer, as in &v", out)
	}
	if contentType == ContentProtobuf {
		return fmt.Errorf("participant: decode into %T: the data is protobuf; give a protobuf message or a *[]byte", out)
	}
	if len(data) == 0 {
		return nil // nothing was sent: the zero value
	}
	if err := json.Unmarshal(data, out); err != nil {
		return fmt.Errorf("participant: decode JSON into %T: %w", out, err)
	}
	return nil
}

// requestDigest is SHA-256 over what a caller asks for: bytes and strings as they
// are, protobuf in deterministic form, everything else as JSON with sorted names
// and without space, so that the order of a struct's fields makes no difference.
func requestDigest(v any) ([]byte, error) {
	if v == nil {
		return nil, errors.New("participant: Request(nil) says nothing about the request; leave it out")
	}
	data, contentType, err := encode(v)
	if err != nil {
		return nil, err
	}
	if contentType == ContentJSON {
		if data, err = canonicalJSON(data); err != nil {
			return nil, err
		}
	}
	sum := sha256.Sum256(data)
	return sum[:], nil
}

func canonicalJSON(data []byte) ([]byte, error) {
	d := json.NewDecoder(bytes.NewReader(data))
	d.UseNumber() // keep numbers as written: float64 would merge large integers
	var v any
	if err := d.Decode(&v); err != nil {
		return nil, fmt.Errorf("participant: canonical JSON: %w", err)
	}
	out, err := json.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("participant: canonical JSON: %w", err)
	}
	return out, nil
}
