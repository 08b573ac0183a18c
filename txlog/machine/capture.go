package machine

import "github.com/cohort-tx/cohort/txlog/command"

// reportCapture records what became of a participant's capture.
func (e *entryRun) reportCapture(c *command.ReportCapture) (command.Result, error) {
	return refused(command.ReasonMalformed, "no capture of %s is wanted for checkpoint %d", c.Participant, c.Number), nil
}
