//! What the scripted CLI has recorded of its turns (`::record FILE`).

use std::path::Path;

use rustix::time::{ClockId, clock_gettime};

/// One turn of one process. Times are nanoseconds of the monotonic clock, which
/// all processes have in common.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Turn {
    pub pid: i32,
    pub begin: i64,
    /// The last that was heard of it: of one that was killed it is at most some
    /// hundredths of a second old.
    pub last: i64,
    pub ended: bool,
}

/// What a file holds.
#[derive(Debug, Default)]
pub struct Record {
    pub turns: Vec<Turn>,
    /// Turns that began while a process of another one, or a tool of it, lived.
    pub clashes: usize,
}

fn read_clock(clock: ClockId) -> i64 {
    let now = clock_gettime(clock);
    now.tv_sec * 1_000_000_000 + now.tv_nsec
}

/// The moment, as the records tell it.
pub fn now() -> i64 {
    read_clock(ClockId::Monotonic)
}

/// A moment of the clock on the wall, as the records tell it.
pub fn at(time: &prost_types::Timestamp) -> i64 {
    let then = time.seconds * 1_000_000_000 + i64::from(time.nanos);
    now() - (read_clock(ClockId::Realtime) - then)
}

/// The record in this file; empty if nobody began.
pub fn read(file: &Path) -> Record {
    let mut record = Record::default();
    let text = std::fs::read_to_string(file).unwrap_or_default();
    for line in text.lines() {
        let words: Vec<&str> = line.split(' ').collect();
        let &[word, pid, time] = words.as_slice() else {
            panic!("{}: {line}", file.display());
        };
        let (pid, time) = (pid.parse().unwrap(), time.parse().unwrap());
        let mut turns = record.turns.iter_mut().rev();
        match word {
            "clash" => record.clashes += 1,
            "begin" => record.turns.push(Turn {
                pid,
                begin: time,
                last: time,
                ended: false,
            }),
            "alive" | "end" => {
                let turn = turns.find(|turn| turn.pid == pid).unwrap();
                turn.last = time;
                turn.ended = word == "end";
            }
            other => panic!("{}: {other}", file.display()),
        }
    }
    record
}

impl Record {
    /// Whether never two worked at it at a time: by the kernel's lock, which ends
    /// with the last process of a turn, and by the times.
    pub fn is_of_one_at_a_time(&self) -> bool {
        let follow = |two: &[Turn]| two[0].last < two[1].begin;
        self.clashes == 0 && self.turns.windows(2).all(follow)
    }

    /// Whether nobody worked at it at that moment.
    pub fn is_quiet_at(&self, moment: i64) -> bool {
        let over = |turn: &Turn| moment < turn.begin || turn.last < moment;
        self.turns.iter().all(over)
    }

    /// Turns that ended by themselves.
    pub fn ended(&self) -> usize {
        self.turns.iter().filter(|turn| turn.ended).count()
    }
}
