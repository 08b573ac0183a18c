package checkpoint

import (
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
)

// benchContent is one participant's data: keys of 20 bytes and values of 400, half
// of which is random, as records of applications are about.
func benchContent() (c content, size int64) {
	random := rand.New(rand.NewPCG(1, 2))
	c.section = "participant/orders"
	for i := range 40_000 {
		value := make([]byte, 0, 400)
		for range 25 {
			value = binary.BigEndian.AppendUint64(value, random.Uint64())
			value = append(value, "status=1"...)
		}
		c.records = append(c.records, record{fmt.Sprintf("order-%014d", i), string(value)})
		size += 20 + 400
	}
	return c, size
}

func BenchmarkWrite(b *testing.B) {
	c, size := benchContent()
	dir := filepath.Join(b.TempDir(), "cp")
	b.SetBytes(size)
	for b.Loop() {
		write(b, dir, smallManifest(), []content{c}, Options{})
		must(b, os.RemoveAll(dir))
	}
}

func BenchmarkRead(b *testing.B) {
	c, size := benchContent()
	dir := filepath.Join(b.TempDir(), "cp")
	m := write(b, dir, smallManifest(), []content{c}, Options{})
	b.SetBytes(size)
	for b.Loop() {
		r, err := Open(dir)
		must(b, err)
		must(b, r.Verify(context.Background(), nil))
	}
	b.ReportMetric(float64(size)/float64(m.FileBytes()), "ratio")
}

func BenchmarkExportAndImport(b *testing.B) {
	c, size := benchContent()
	dir := filepath.Join(b.TempDir(), "cp")
	write(b, dir, smallManifest(), []content{c}, Options{})
	path := filepath.Join(b.TempDir(), "cp.tar")
	b.SetBytes(size)
	for b.Loop() {
		r, err := Open(dir)
		must(b, err)
		out, err := os.Create(path)
		must(b, err)
		must(b, WriteExport(out, r))
		must(b, out.Close())
		in, err := os.Open(path)
		must(b, err)
		_, err = ReadExport(in, dir+"-imported", nil)
		must(b, err)
		must(b, in.Close())
		must(b, os.RemoveAll(dir+"-imported"))
	}
}

func BenchmarkArchiveSegment(b *testing.B) {
	c, size := benchContent()
	dir := b.TempDir()
	src, archive := filepath.Join(dir, "segment"), filepath.Join(dir, "archive")
	var data []byte
	for _, r := range c.records {
		data = append(append(data, r.key...), r.value...)
	}
	must(b, os.WriteFile(src, data, 0o644))
	b.SetBytes(size)
	for b.Loop() {
		must(b, ArchiveSegment(src, archive, 1, 2, discardAll))
		must(b, os.RemoveAll(archive))
	}
}
