package machine

import "encoding/binary"

// Tables of the state.
const (
	tableMeta       = 0x02
	tableConfig     = 0x03
	tableActivation = 0x04
	tableOutcome    = 0x05
	tableDecided    = 0x06
	tableData       = 0x07
	tableCheckpoint = 0x08
	tableSchedule   = 0x09
	tableOrigin     = 0x0a
	tableOwnState   = 0x0b
)

// FirstKey is where the logical state begins; keys below it belong to the store
// and to the replica and are in no digest.
var firstKey = []byte{tableMeta}

var (
	metaKey     = []byte{tableMeta}
	configKey   = []byte{tableConfig}
	scheduleKey = []byte{tableSchedule}
	originKey   = []byte{tableOrigin}
)

func appendActivationKey(dst []byte, participant string) []byte {
	return append(append(dst, tableActivation), participant...)
}

func appendOwnStateKey(dst []byte, participant string) []byte {
	return append(append(dst, tableOwnState), participant...)
}

func appendOutcomeKey(dst []byte, id string) []byte {
	return append(append(dst, tableOutcome), id...)
}

func appendDecidedKey(dst []byte, index uint64) []byte {
	return binary.BigEndian.AppendUint64(append(dst, tableDecided), index)
}

func appendCheckpointKey(dst []byte, number uint64) []byte {
	return binary.BigEndian.AppendUint64(append(dst, tableCheckpoint), number)
}

func appendDataKey(dst []byte, participant uint32, key string) []byte {
	dst = binary.BigEndian.AppendUint32(append(dst, tableData), participant)
	return append(dst, key...)
}

// dataPrefixLen is how much of a data key stands before the participant's key.
const dataPrefixLen = 5

// dataRange is where the keys [start, end) of a participant are; an empty end is
// the end of its store.
func dataRange(participant uint32, start, end string) (from, to []byte) {
	from = appendDataKey(nil, participant, start)
	if end != "" {
		return from, appendDataKey(nil, participant, end)
	}
	if participant == ^uint32(0) {
		return from, []byte{tableData + 1}
	}
	return from, appendDataKey(nil, participant+1, "")
}

// tableEnd is the end of a table's keys.
func tableEnd(table byte) []byte { return []byte{table + 1} }
