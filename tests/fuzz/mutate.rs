//! The driver and the mutator. No coverage: a corpus of real inputs, and words
//! that matter to what reads them.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Longest input, in bytes.
const INPUT_MAX: usize = 256 * 1024;

/// Numbers that lie at an edge.
const EDGES: [&str; 9] = [
    "0",
    "-1",
    "9223372036854775807",
    "-9223372036854775808",
    "18446744073709551616",
    "1e308",
    "-1e400",
    "2147483648",
    "0.1",
];

/// xorshift64*: small, and the same everywhere.
pub struct Rng(u64);

impl Rng {
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    /// Below `limit`, which is not 0.
    pub fn below(&mut self, limit: usize) -> usize {
        (self.next() >> 16) as usize % limit
    }

    pub fn choose<'a, T>(&mut self, items: &'a [T]) -> &'a T {
        &items[self.below(items.len())]
    }

    fn range(&mut self, len: usize, longest: usize) -> std::ops::Range<usize> {
        let start = self.below(len + 1);
        let end = (start + self.below(longest.max(1)) + 1).min(len);
        start..end.max(start)
    }
}

/// What inputs are made of.
pub struct Corpus<'a> {
    pub inputs: Vec<Vec<u8>>,
    pub words: &'a [&'a [u8]],
}

impl Corpus<'_> {
    fn input(&self, rng: &mut Rng) -> Vec<u8> {
        let mut input = rng.choose(&self.inputs).clone();
        for _ in 0..1 + rng.below(6) {
            self.mutate(&mut input, rng);
        }
        input.truncate(INPUT_MAX);
        input
    }

    fn mutate(&self, input: &mut Vec<u8>, rng: &mut Rng) {
        let len = input.len();
        match rng.below(9) {
            0 if len > 0 => input[rng.below(len)] ^= 1 << rng.below(8),
            1 if len > 0 => input[rng.below(len)] = rng.next() as u8,
            2 => drop(input.drain(rng.range(len, 64))),
            3 => {
                let piece = input[rng.range(len, 256)].to_vec();
                let at = rng.below(len + 1);
                let times = if rng.below(20) == 0 { 200 } else { 1 };
                input.splice(at..at, piece.repeat(times));
            }
            4 => {
                let other = rng.choose(&self.inputs);
                let piece = other[rng.range(other.len(), 512)].to_vec();
                let at = rng.below(len + 1);
                input.splice(at..at, piece);
            }
            5 => {
                // A run of digits becomes another number.
                let Some(start) = (0..len)
                    .map(|_| rng.below(len))
                    .find(|at| input[*at].is_ascii_digit())
                else {
                    return;
                };
                let digits = input[start..]
                    .iter()
                    .take_while(|b| b.is_ascii_digit())
                    .count();
                input.splice(start..start + digits, rng.choose(&EDGES).bytes());
            }
            6 => input.truncate(rng.below(len + 1)),
            _ if !self.words.is_empty() => {
                let at = rng.range(len, 16);
                input.splice(at, rng.choose(self.words).iter().copied());
            }
            _ => {}
        }
    }
}

fn setting(name: &str) -> Option<u64> {
    let value = std::env::var(name).ok()?;
    Some(
        value
            .parse()
            .unwrap_or_else(|_| panic!("{name} is no number: {value}")),
    )
}

/// Feeds `check` with mutated inputs until time is up. `check` panics where it
/// finds a fault.
pub fn fuzz(name: &str, corpus: &Corpus<'_>, mut check: impl FnMut(&[u8], &mut Rng)) {
    // Not 0, or it stays so.
    let fixed = Rng(1);
    if let Some(file) = std::env::var_os("FUZZ_REPLAY") {
        check(&std::fs::read(file).unwrap(), &mut { fixed });
        return;
    }
    for input in &corpus.inputs {
        guarded(name, input, |input| check(input, &mut Rng(1)));
    }
    let random = RandomState::new().build_hasher().finish();
    let seed = setting("FUZZ_SEED").unwrap_or(random) | 1;
    println!("{name}: FUZZ_SEED={seed}");
    let mut rng = Rng(seed);
    let end = Instant::now() + Duration::from_secs(setting("FUZZ_SECONDS").unwrap_or(1));
    let mut count = 0u64;
    while Instant::now() < end {
        let input = corpus.input(&mut rng);
        guarded(name, &input, |input| check(input, &mut Rng(1)));
        count += 1;
    }
    println!("{name}: {count} inputs");
}

/// Runs `check`; what it panics at is kept.
fn guarded(name: &str, input: &[u8], check: impl FnOnce(&[u8])) {
    if let Err(panic) = catch_unwind(AssertUnwindSafe(|| check(input))) {
        let file = keep(name, input);
        eprintln!(
            "replay it: FUZZ_REPLAY={} cargo test --test fuzz {name}",
            file.display()
        );
        std::panic::resume_unwind(panic);
    }
}

fn keep(name: &str, input: &[u8]) -> PathBuf {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("../fuzz");
    std::fs::create_dir_all(&dir).unwrap();
    // FNV-1a: the same input is the same file.
    let hash = input.iter().fold(0xcbf2_9ce4_8422_2325u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    });
    let file = dir
        .canonicalize()
        .unwrap()
        .join(format!("{name}-{hash:016x}"));
    std::fs::write(&file, input).unwrap();
    file
}
