package postgres

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
)

const (
	// changeVersion is the newest form of a change that this package reads, and the
	// one that it writes.
	changeVersion = 1
	// changeBytes is about what one staged change holds; more rows make more changes.
	// It is far below limits.value_bytes. A single row may be larger.
	changeBytes = 128 << 10
	// noDigest stands for no changes at all.
	noDigest = "-"
)

// change is what a step stages in the group's log: rows as the step left them.
type change struct {
	Version int `json:"v"`
	// Lot names the SQL transaction that made it.
	Lot    lot           `json:"lot"`
	Tables []tableChange `json:"tables"`
}

// tableChange is rows of one table. Values are in PostgreSQL's text form, null for
// NULL, in the order of the columns.
type tableChange struct {
	// Table is the qualified name, quoted as SQL needs it.
	Table   string      `json:"table"`
	Columns []string    `json:"columns,omitempty"`
	Put     [][]*string `json:"put,omitempty"`
	// Delete holds primary keys.
	Key    []string    `json:"key"`
	Delete [][]*string `json:"delete,omitempty"`
}

// rowChange is one row, before it is put together with others. values is nil for
// one that is gone.
type rowChange struct {
	table  *table
	key    []*string
	values []*string
}

// encodeChanges puts rows into as many changes as it needs.
func encodeChanges(l lot, rows []rowChange) ([][]byte, error) {
	var out [][]byte
	c, size := change{Version: changeVersion, Lot: l}, 0
	flush := func() error {
		if len(c.Tables) == 0 {
			return nil
		}
		var buf bytes.Buffer
		enc := json.NewEncoder(&buf)
		enc.SetEscapeHTML(false)
		if err := enc.Encode(c); err != nil {
			return err
		}
		out = append(out, bytes.TrimRight(buf.Bytes(), "\n"))
		c.Tables, size = nil, 0
		return nil
	}
	for _, r := range rows {
		bytes := 0
		for _, v := range append(r.key, r.values...) {
			if bytes += 4; v != nil {
				bytes += len(*v)
			}
		}
		if size > 0 && size+bytes > changeBytes {
			if err := flush(); err != nil {
				return nil, err
			}
		}
		size += bytes
		if n := len(c.Tables); n == 0 || c.Tables[n-1].Table != r.table.name {
			c.Tables = append(c.Tables, tableChange{Table: r.table.name, Columns: r.table.stored(), Key: r.table.keyNames()})
		}
		t := &c.Tables[len(c.Tables)-1]
		if r.values == nil {
			t.Delete = append(t.Delete, r.key)
		} else {
			t.Put = append(t.Put, r.values)
		}
	}
	return out, flush()
}

func decodeChange(data []byte) (change, error) {
	var c change
	if err := json.Unmarshal(data, &c); err != nil {
		return change{}, fmt.Errorf("postgres: a change in the log is not one of this package: %w", err)
	}
	if c.Version > changeVersion {
		return change{}, fmt.Errorf("postgres: a change in the log has version %d, this release reads up to %d: use the release that wrote it or a newer one", c.Version, changeVersion)
	}
	if c.Version < 1 || c.Lot == "" {
		return change{}, errors.New("postgres: a change in the log is not one of this package: stage rows only by changing them in a step")
	}
	for _, t := range c.Tables {
		if err := t.check(); err != nil {
			return change{}, err
		}
	}
	return c, nil
}

func (t *tableChange) check() error {
	for _, row := range t.Put {
		if len(row) != len(t.Columns) {
			return fmt.Errorf("postgres: a change of table %s has a row of %d values for %d columns", t.Table, len(row), len(t.Columns))
		}
	}
	for _, key := range t.Delete {
		if len(key) != len(t.Key) {
			return fmt.Errorf("postgres: a change of table %s has a key of %d values for %d columns", t.Table, len(key), len(t.Key))
		}
	}
	return nil
}

// digest sums the changes of one SQL transaction, in order, so that a gid tells
// whether what is prepared is what the log has.
type digest struct {
	hash hash.Hash
	any  bool
}

func newDigest() *digest { return &digest{hash: sha256.New()} }

func (d *digest) add(data []byte) {
	var size [8]byte
	binary.BigEndian.PutUint64(size[:], uint64(len(data)))
	_, _ = d.hash.Write(size[:])
	_, _ = d.hash.Write(data)
	d.any = true
}

func (d *digest) String() string {
	if !d.any {
		return noDigest
	}
	return b64.EncodeToString(d.hash.Sum(nil)[:8])
}
