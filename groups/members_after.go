package groups

// AfterLeave is the directory as it would be after the command, or its refusal.
func (s *DirectoryState) AfterLeave(c LeaveNode) (*DirectoryState, error) {
	return s.after(directoryCommand{LeaveNode: &c})
}

// AfterJoin is the directory as it would be once the node has joined and
// registered itself.
func (s *DirectoryState) AfterJoin(c AddNode) (*DirectoryState, error) {
	next, err := s.after(directoryCommand{AddNode: &c})
	if err != nil {
		return nil, err
	}
	return next.after(directoryCommand{RegisterNode: &RegisterNode{Name: c.Name, APIAddress: c.APIAddress, RaftAddress: c.RaftAddress, DataID: c.DataID}})
}

// AfterReplace is the directory as it would be after the command.
func (s *DirectoryState) AfterReplace(c ReplaceNode) (*DirectoryState, error) {
	return s.after(directoryCommand{ReplaceNode: &c})
}

// AfterDefinition is the directory as it would be with another definition of a
// group that exists.
func (s *DirectoryState) AfterDefinition(d *Definition) (*DirectoryState, error) {
	data, err := d.MarshalJSON()
	if err != nil {
		return nil, err
	}
	expect := uint64(0)
	if g, ok := s.Group(d.Group); ok {
		expect = g.Version
	}
	return s.after(directoryCommand{SetDefinition: &SetDefinition{Group: d.Group, Expect: expect, Version: expect + 1, DefinitionJSON: data}})
}

// after tries a command on a copy: states are immutable.
func (s *DirectoryState) after(c directoryCommand) (*DirectoryState, error) {
	d := &Directory{state: s}
	if r := d.Apply(encodeDirectoryCommand(c)); r.Refused != 0 {
		return nil, &RefusedError{Code: r.Refused, Detail: r.Detail}
	}
	return d.state, nil
}
