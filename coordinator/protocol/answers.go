package protocol

// answers remembers how recent attempts ended, the oldest forgotten first.
type answers struct {
	byName map[Attempt]Answer
	order  []Attempt // a ring
	next   int
}

func newAnswers() *answers { return &answers{byName: make(map[Attempt]Answer)} }

// nameable: another attempt cannot have the same name.
func (a Attempt) nameable() bool { return a.Nonce != 0 }

func (r *answers) remember(name Attempt, ans Answer) {
	if !name.nameable() {
		return
	}
	if _, known := r.byName[name]; known {
		return
	}
	if len(r.order) < MaxRemembered {
		r.order = append(r.order, name)
	} else {
		delete(r.byName, r.order[r.next])
		r.order[r.next] = name
		r.next = (r.next + 1) % MaxRemembered
	}
	r.byName[name] = ans
}

func (r *answers) recall(name Attempt) (Answer, bool) {
	if !name.nameable() {
		return nil, false
	}
	ans, ok := r.byName[name]
	return ans, ok
}
