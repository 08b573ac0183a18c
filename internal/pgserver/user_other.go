//go:build !linux

package pgserver

import (
	"fmt"
	"os"
	"syscall"
)

// attributes keep the terminal's interrupt from the server: it is for this
// process, which ends it.
func attributes() (*syscall.SysProcAttr, error) {
	if os.Getuid() == 0 {
		return nil, fmt.Errorf("%w for use by root", ErrMissing)
	}
	return &syscall.SysProcAttr{Setpgid: true}, nil
}
