package cluster

import "syscall"

// childAttributes keep a node's process from outliving this one, however it
// ends, and from getting the terminal's interrupt, which is for this one.
func childAttributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
}
