package main

import (
	"fmt"
	"os"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/cohort-tx/cohort/internal/bench"
)

func newBenchCompare(env *environment) *cobra.Command {
	return &cobra.Command{
		Use:   "compare A.json B.json",
		Short: "Compare two reports that were written with -o json",
		Long: `Put the figures of two reports beside each other, with B divided by A, and name the
settings that are not the same. What differs by less than 5 % is called neither
better nor worse: two runs of the same differ by as much.`,
		Args: cobra.ExactArgs(2),
		RunE: func(_ *cobra.Command, args []string) error {
			var reports [2]*bench.Report
			for i, name := range args {
				var err error
				if reports[i], err = readReport(name); err != nil {
					return err
				}
			}
			c, err := bench.Compare(reports[0], reports[1])
			if err != nil {
				return err
			}
			return env.print(c, func(w *tabwriter.Writer) { c.WriteText(w) })
		},
	}
}

func readReport(name string) (*bench.Report, error) {
	file, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	report, err := bench.ReadReport(file)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return report, nil
}
