package main

import (
	"os"
	"testing"

	"go.uber.org/goleak"
)

// asCohort makes the test binary be the program, so that tests can run real
// processes of it without building it.
const asCohort = "COHORT_TEST_AS_PROGRAM"

func TestMain(m *testing.M) {
	if os.Getenv(asCohort) != "" {
		main()
		return
	}
	goleak.VerifyTestMain(m)
}
