package main

import (
	"bytes"
	"fmt"
	"regexp"
	"strings"
	"testing"

	"github.com/cockroachdb/datadriven"

	"github.com/cohort-tx/cohort/participant/participanttest"
)

// unstable is what differs between runs of the same commands.
var unstable = []struct {
	pattern *regexp.Regexp
	text    string
}{
	{regexp.MustCompile(`\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z`), "TIME"},
	{regexp.MustCompile(`127\.0\.0\.1:\d+`), "ADDR"},
	{regexp.MustCompile(`"(coordinator_epoch|applied_index|begun|horizon|log_bytes|outcomes|age_seconds)":[0-9.e-]+`), `"$1":N`},
	{regexp.MustCompile(`epoch \d+`), "epoch N"},
	{regexp.MustCompile(`[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}`), "UUID"},
	{regexp.MustCompile(` +\n`), "\n"},
	{regexp.MustCompile(`(ADDR|RAFT) +`), "$1  "},
	{regexp.MustCompile(`TIME +`), "TIME  "},
}

// Without it the output that scripts read could change unnoticed. Each command
// runs against one node, in order; files are given as input.
func TestCommands(t *testing.T) {
	c := participanttest.Start(t)
	datadriven.RunTest(t, "testdata/commands.txt", func(t *testing.T, d *datadriven.TestData) string {
		var stdin, command string
		switch d.Cmd {
		case "cohort":
			command = d.Input
		case "apply":
			stdin, command = d.Input, "apply -f - "+strings.Join(flagsOf(d), " ")
		default:
			d.Fatalf(t, "unknown directive %s", d.Cmd)
		}
		var stdout, stderr bytes.Buffer
		code := execute(t.Context(), splitWords(command), &environment{
			stdin: strings.NewReader(stdin), stdout: &stdout, stderr: &stderr,
			getenv: func(name string) string {
				if name == "COHORT_ADDR" {
					return c.Addr
				}
				return ""
			},
		})
		result := stdout.String()
		if stderr.Len() > 0 {
			result += "stderr: " + stderr.String()
		}
		result += fmt.Sprintf("exit %d\n", code)
		for _, u := range unstable {
			result = u.pattern.ReplaceAllString(result, u.text)
		}
		return result
	})
}

func flagsOf(d *datadriven.TestData) []string {
	var flags []string
	for _, argument := range d.CmdArgs {
		flag := "--" + argument.Key
		if len(argument.Vals) > 0 {
			flag += "=" + argument.Vals[0]
		}
		flags = append(flags, flag)
	}
	return flags
}

// splitWords splits a command line; single quotes keep a word together.
func splitWords(line string) []string {
	var words []string
	for i, part := range strings.Split(line, "'") {
		if i%2 == 1 {
			words[len(words)-1] += part
			continue
		}
		fields := strings.Fields(part)
		if len(fields) == 0 {
			continue
		}
		words = append(words, fields...)
		if strings.HasSuffix(part, " ") {
			words = append(words, "")
		}
	}
	if len(words) > 0 && words[len(words)-1] == "" {
		words = words[:len(words)-1]
	}
	return words
}
