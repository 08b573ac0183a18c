// Package strictyaml decodes the YAML files that people write for Cohort, and
// tells them what is wrong in terms of those files.
//
// A file is decoded into Go structs by their yaml tags. Nothing is guessed: an
// unknown key, a key given twice, a value of another type, an empty value, an
// anchor, an alias, a merge key and a tag are faults. Decoding does not stop at
// the first fault; it gathers all of them, each with file, line, column, the
// path of the key, and what would be right.
//
// What a struct field may hold:
//
//	string          text; a number or true/false must be quoted
//	bool            true or false
//	int, uint64     decimal digits
//	uint64 ",size"  bytes, plain or with a unit: 65536, 64KiB, 1GB
//	time.Duration   as Go writes them: 500ms, 2h, 1h30m; or 0
//	[]string ",all" a list, or the word all, which leaves the field nil
//	Enum            one of its Values
//	TextUnmarshaler text in the type's own form
//	struct, *struct a mapping; Defaulter sets a new one's defaults first
//	[]T             a list; elements with a name key are named by it in paths
//
// The tag `example:"…"` on a field is shown when its value has another type.
package strictyaml
