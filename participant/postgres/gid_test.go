package postgres

import (
	"strings"
	"testing"
	"unicode/utf8"

	"pgregory.net/rapid"
)

// Without it a gid could be too long for PostgreSQL, or tell less than settling
// needs.
func TestGID(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		name := rapid.StringMatching(`[a-z][a-z0-9-]{0,62}`)
		o := owner(name.Draw(t, "group"), name.Draw(t, "participant"))
		g := gid{
			owner: o, begun: rapid.Uint64().Draw(t, "begun"), lot: newLot(),
			digest: rapid.SampledFrom([]string{noDigest, "AbCdEfGhIjK"}).Draw(t, "digest"),
			id:     rapid.StringN(1, 256, 256).Draw(t, "id"),
		}
		s, hashed := g.encode()
		if len(s) > maxGID || !utf8.ValidString(s) || strings.ContainsAny(s, "'\\") {
			t.Fatalf("%q has %d bytes", s, len(s))
		}
		back, ok := parseGID(o, s)
		if !ok {
			t.Fatalf("%q is not read back", s)
		}
		if hashed {
			if back.idHash != hashID(g.id) {
				t.Fatalf("%q has the hash of another id", s)
			}
			back.id, back.idHash = g.id, ""
		}
		if back != g {
			t.Fatalf("%+v became %+v", g, back)
		}
		if _, ok := parseGID("other/one", s); ok {
			t.Fatalf("%q is taken for another participant's", s)
		}
	})
}

// Without it somebody else's prepared transaction could be taken for ours.
func FuzzParseGID(f *testing.F) {
	f.Add("cohort1:shop/bank:2s:AAAAAAAAAAAAAAAAAAAAAA:-:ix")
	f.Add("cohort1:shop/bank:2s:AAAAAAAAAAAAAAAAAAAAAA:-:hxx")
	f.Add("cohort1:shop/bank:2s:A:-:b_w")
	f.Fuzz(func(t *testing.T, s string) {
		if g, ok := parseGID("shop/bank", s); ok && g.String() != s {
			t.Errorf("%q is read as %q", s, g)
		}
	})
}
