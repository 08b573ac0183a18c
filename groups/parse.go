package groups

import (
	"fmt"
	"strings"

	"github.com/cohort-tx/cohort/internal/strictyaml"
)

// File is a group file as it was read.
type File struct {
	// Name is shown in errors.
	Name string
	Data []byte
}

// Parse reads a group file: one YAML document per group, strictly, with
// defaults filled in and validated. All faults of the file are returned, in its
// order; with any there are no definitions.
func Parse(file string, data []byte) ([]Definition, []FileError) {
	return ParseFiles([]File{{Name: file, Data: data}})
}

// ParseFiles reads several group files as one set: a group may be in one of
// them only.
func ParseFiles(files []File) ([]Definition, []FileError) {
	var definitions []Definition
	var faults []FileError
	first := map[string]string{}
	for _, f := range files {
		documents, broken := strictyaml.Parse(f.Name, f.Data)
		faults = append(faults, broken...)
		if len(documents) == 0 && len(broken) == 0 {
			faults = append(faults, FileError{File: f.Name, Message: "the file holds no group; write at least `group: NAME` and `participants: [{name: NAME}]`"})
		}
		var inFile []FileError
		for _, document := range documents {
			d := parseDocument(document)
			if where, twice := first[d.Group]; twice && d.Group != "" {
				document.Fault("group", fmt.Sprintf("group %s is declared already, at %s; leave one of them", strictyaml.Show(d.Group), where))
			} else {
				first[d.Group] = document.Where("group")
			}
			inFile = append(inFile, document.Faults()...)
			definitions = append(definitions, d)
		}
		faults = append(faults, inFile...)
	}
	if len(faults) > 0 {
		return nil, faults
	}
	return definitions, nil
}

// parseDocument reads one group; its faults are the document's.
func parseDocument(document *strictyaml.Document) Definition {
	d := Default("")
	document.Decode(&d)
	if !document.Has("checkpoint.min_copies") {
		d.Checkpoint.MinCopies = d.defaultMinCopies()
	}
	problems := d.problems()
	if d.Replicas != nil && len(d.Replicas) == 0 {
		problems.Add("replicas", "the list is empty; name at least one node, or write all")
	}
	document.Check(problems)
	d.normalise()
	return d
}

// Place gives a fault that was found in a valid definition, against the cluster
// it is for, its place in the files that the definition came from.
func Place(files []File, group string, fault FileError) FileError {
	for _, f := range files {
		documents, _ := strictyaml.Parse(f.Name, f.Data)
		for _, document := range documents {
			if parseDocument(document).Group != group {
				continue
			}
			// What the file lacks is missed in the nearest thing above it.
			at := fault.Key
			for at != "" && !document.Has(at) {
				at = at[:max(strings.LastIndexAny(at, ".["), 0)]
			}
			if at == "" {
				at = "group"
			}
			document.Fault(at, fault.Message)
			found := document.Faults()
			placed := found[len(found)-1]
			placed.Key = fault.Key
			return placed
		}
	}
	return fault
}
