package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"text/tabwriter"

	"github.com/spf13/cobra"

	pb "github.com/cohort-tx/cohort/api/cohort/v1"
)

// maxGroupFileBytes bounds one group file: a thousand participants fit in a
// small part of it.
const maxGroupFileBytes = 1 << 20

type applyView struct {
	DryRun bool        `json:"dry_run"`
	Groups []groupDiff `json:"groups"`
}

type groupDiff struct {
	Group   string      `json:"group"`
	Action  string      `json:"action"`
	Version uint64      `json:"version"`
	Changes []fieldDiff `json:"changes"`
}

type fieldDiff struct {
	Path   string `json:"path"`
	Before string `json:"before"`
	After  string `json:"after"`
}

func newApply(env *environment) *cobra.Command {
	var (
		files         []string
		dryRun, prune bool
	)
	cmd := &cobra.Command{
		Use:   "apply -f FILE...",
		Short: "Declare groups; print what changes; it takes effect at once",
		Example: `  cohort apply -f checkout.yaml
  cohort apply -f checkout.yaml --dry-run
  cohort apply -f - < checkout.yaml`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if len(files) == 0 {
				return usagef("apply needs a group file: -f FILE, or -f - for standard input")
			}
			request := &pb.ApplyRequest{DryRun: dryRun, Prune: prune}
			for _, name := range files {
				file, err := env.readGroupFile(name)
				if err != nil {
					return err
				}
				request.Files = append(request.Files, file)
			}
			ctx, cancel := env.request(cmd)
			defer cancel()
			return env.applyFiles(ctx, request)
		},
	}
	cmd.Flags().StringArrayVarP(&files, "file", "f", nil, "group file, or - for standard input; may be repeated")
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "only show what would change")
	cmd.Flags().BoolVar(&prune, "prune", false, "allow removing participants together with their data")
	return cmd
}

func (e *environment) readGroupFile(name string) (*pb.ApplyFile, error) {
	source := e.stdin
	if name != "-" {
		f, err := os.Open(name)
		if err != nil {
			return nil, fmt.Errorf("group file: %w", err)
		}
		defer f.Close()
		source = f
	} else {
		name = "stdin"
	}
	data, err := io.ReadAll(io.LimitReader(source, maxGroupFileBytes+1))
	if err != nil {
		return nil, fmt.Errorf("group file %s: %w", name, err)
	}
	if len(data) > maxGroupFileBytes {
		return nil, fmt.Errorf("group file %s is larger than %d bytes; is it the right file?", name, maxGroupFileBytes)
	}
	return &pb.ApplyFile{Name: name, Yaml: data}, nil
}

// applyFiles declares groups and prints what changed.
func (e *environment) applyFiles(ctx context.Context, request *pb.ApplyRequest) error {
	conn, err := e.connect()
	if err != nil {
		return err
	}
	defer conn.Close()
	answer, err := pb.NewClusterClient(conn).Apply(ctx, request)
	if err != nil {
		return err
	}
	if len(answer.Errors) > 0 {
		for _, fault := range answer.Errors {
			fmt.Fprintln(e.stderr, faultLine(fault))
		}
		if e.output != formatTable {
			refused := struct {
				Errors []faultView `json:"errors"`
			}{Errors: []faultView{}}
			for _, f := range answer.Errors {
				refused.Errors = append(refused.Errors, faultView{File: f.File, Line: f.Line, Column: f.Column, Key: f.Key, Message: f.Message})
			}
			if err := e.print(refused, nil); err != nil {
				return err
			}
		}
		return fmt.Errorf("nothing was changed: correct the %d fault(s) above and apply again", len(answer.Errors))
	}
	view := applyView{DryRun: request.DryRun, Groups: []groupDiff{}}
	for _, change := range answer.Groups {
		diff := groupDiff{Group: change.Group, Action: change.Action, Version: change.Version, Changes: []fieldDiff{}}
		for _, field := range change.Changes {
			diff.Changes = append(diff.Changes, fieldDiff{Path: field.Path, Before: field.Before, After: field.After})
		}
		view.Groups = append(view.Groups, diff)
	}
	return e.print(view, func(w *tabwriter.Writer) {
		for _, diff := range view.Groups {
			would := ""
			if request.DryRun && diff.Action != "unchanged" {
				would = " (dry run: nothing was changed)"
			}
			fmt.Fprintf(w, "group %s %s, version %d%s\n", diff.Group, diff.Action, diff.Version, would)
			for _, field := range diff.Changes {
				switch {
				case field.Before == "":
					fmt.Fprintf(w, "  + %s\t%s\n", field.Path, field.After)
				case field.After == "":
					fmt.Fprintf(w, "  - %s\t%s\n", field.Path, field.Before)
				default:
					fmt.Fprintf(w, "  ~ %s\t%s -> %s\n", field.Path, field.Before, field.After)
				}
			}
		}
	})
}

// faultLine is file:line:column: key: message, the form that editors jump to.
func faultLine(fault *pb.FileError) string {
	line := fault.Message
	if fault.Key != "" {
		line = fault.Key + ": " + line
	}
	switch {
	case fault.Line > 0:
		return fmt.Sprintf("%s:%d:%d: %s", fault.File, fault.Line, fault.Column, line)
	case fault.File != "":
		return fault.File + ": " + line
	}
	return line
}

// faultView is a fault in JSON.
type faultView struct {
	File    string `json:"file"`
	Line    uint32 `json:"line"`
	Column  uint32 `json:"column"`
	Key     string `json:"key"`
	Message string `json:"message"`
}
