package postgres

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"strconv"
	"strings"
)

const (
	// gidPrefix begins each global transaction identifier of this package. The digit
	// is the format's version.
	gidPrefix = "cohort1:"
	// maxGID is PostgreSQL's limit.
	maxGID = 199
	// maxOwner bounds a group's and participant's names in a gid; longer ones are
	// hashed.
	maxOwner = 60
	// hashChars has the hash of a long id, at the end of its gid.
	hashChars = 22
)

var b64 = base64.RawURLEncoding

// lot names one SQL transaction: 16 random bytes in base64.
type lot string

func newLot() lot {
	var b [16]byte
	_, _ = rand.Read(b[:]) // it never fails
	return lot(b64.EncodeToString(b[:]))
}

// gid is the global identifier of a prepared transaction:
//
//	cohort1 : group/participant : begun : lot : digest : id
//
// begun in base 36; digest that of the changes staged, "-" for none; id as it is
// when it is plain ("i…"), in base64 ("b…"), or hashed when it is long ("h…", and
// cohort.ids holds it).
type gid struct {
	owner  string
	begun  uint64
	lot    lot
	digest string
	// id is empty in a parsed gid with idHash.
	id, idHash string
}

// owner names a participant in gids and triggers.
func owner(group, participant string) string {
	name := group + "/" + participant
	if len(name) <= maxOwner {
		return name
	}
	sum := sha256.Sum256([]byte(name))
	return "~" + b64.EncodeToString(sum[:16])
}

// String is the identifier. hashed tells that it does not hold the id.
func (g gid) String() string {
	s, _ := g.encode()
	return s
}

func (g gid) encode() (s string, hashed bool) {
	head := gidPrefix + g.owner + ":" + strconv.FormatUint(g.begun, 36) + ":" + string(g.lot) + ":" + g.digest + ":"
	tag := "i" + g.id
	if !plain(g.id) {
		tag = "b" + b64.EncodeToString([]byte(g.id))
	}
	if g.idHash != "" || len(head)+len(tag) > maxGID {
		return head + "h" + g.hash(), true
	}
	return head + tag, false
}

func (g gid) hash() string {
	if g.idHash != "" {
		return g.idHash
	}
	return hashID(g.id)
}

func hashID(id string) string {
	sum := sha256.Sum256([]byte(id))
	return b64.EncodeToString(sum[:16])
}

// plain ids need no quoting anywhere.
func plain(id string) bool {
	for i := 0; i < len(id); i++ {
		c := id[i]
		if c <= ' ' || c > '~' || c == '\'' || c == '\\' || c == '"' {
			return false
		}
	}
	return true
}

// parseGID reads an identifier of owner's. What is not exactly one is somebody
// else's, and nothing here touches it.
func parseGID(owner, s string) (gid, bool) {
	rest, ok := strings.CutPrefix(s, gidPrefix+owner+":")
	if !ok {
		return gid{}, false
	}
	parts := strings.SplitN(rest, ":", 4)
	if len(parts) != 4 || parts[3] == "" {
		return gid{}, false
	}
	g := gid{owner: owner, lot: lot(parts[1]), digest: parts[2]}
	var err error
	if g.begun, err = strconv.ParseUint(parts[0], 36, 64); err != nil {
		return gid{}, false
	}
	switch id := parts[3][1:]; parts[3][0] {
	case 'i':
		g.id = id
	case 'b':
		raw, err := b64.DecodeString(id)
		if err != nil {
			return gid{}, false
		}
		g.id = string(raw)
	case 'h':
		g.idHash = id
	}
	return g, g.String() == s
}
