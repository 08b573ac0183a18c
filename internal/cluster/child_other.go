//go:build !linux

package cluster

import "syscall"

// childAttributes keep the terminal's interrupt from a node's process: it is for
// this one, which ends its children. One that is killed leaves them behind here.
func childAttributes() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }
