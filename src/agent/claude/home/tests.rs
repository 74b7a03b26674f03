use super::*;

#[test]
fn a_directory_is_never_given_to_two_processes_and_is_used_again() {
    let state = tempfile::tempdir().unwrap();
    let homes = Homes::open(state.path(), None).unwrap();

    let first = homes.acquire(false).unwrap();
    let second = homes.acquire(false).unwrap();
    assert_ne!(first.dir(), second.dir());
    let dir = first.dir();
    first.release(true);

    assert_eq!(homes.acquire(false).unwrap().dir(), dir);
}

#[test]
fn the_directory_of_a_killed_process_is_not_used_again() {
    let state = tempfile::tempdir().unwrap();
    let homes = Homes::open(state.path(), None).unwrap();

    let home = homes.acquire(false).unwrap();
    let dir = home.dir();
    home.release(false);

    assert!(!dir.exists());
    assert_ne!(homes.acquire(false).unwrap().dir(), dir);
}

#[test]
fn saved_sessions_are_shared_and_survive_the_directory() {
    let state = tempfile::tempdir().unwrap();
    let homes = Homes::open(state.path(), None).unwrap();

    let home = homes.acquire(true).unwrap();
    fs::write(home.dir().join("projects/session"), "kept").unwrap();
    home.release(false);

    let other = homes.acquire(true).unwrap();
    let read = fs::read_to_string(other.dir().join("projects/session")).unwrap();
    assert_eq!(read, "kept");
}

#[test]
fn a_process_that_saves_nothing_has_an_empty_directory() {
    let state = tempfile::tempdir().unwrap();
    let homes = Homes::open(state.path(), None).unwrap();
    homes.acquire(true).unwrap().release(true);
    homes.acquire(false).unwrap().release(true);

    let home = homes.acquire(false).unwrap();
    assert_eq!(fs::read_dir(home.dir()).unwrap().count(), 0);
    // What a CLI may keep there all the same does not stay for the next.
    fs::create_dir(home.dir().join("projects")).unwrap();
    let dir = home.dir();
    home.release(true);

    let next = homes.acquire(true).unwrap();
    assert_eq!(next.dir(), dir);
    assert!(next.dir().join("projects").is_symlink());
}

#[test]
fn a_private_file_is_its_owners_alone_and_does_not_outlive_a_killed_server() {
    use std::os::unix::fs::MetadataExt;
    let state = tempfile::tempdir().unwrap();
    let killed = Homes::open(state.path(), None).unwrap();
    let home = killed.acquire(false).unwrap();
    let file = home.private("mcp.json", "secret").unwrap();
    assert_eq!(file.metadata().unwrap().mode() & 0o777, 0o600);
    let around = file.parent().unwrap().metadata().unwrap();
    assert_eq!(around.mode() & 0o777, 0o700);
    // What a kill leaves: nothing is dropped, and the lock is free.
    std::mem::forget(home);
    rustix::fs::flock(&killed._lock, rustix::fs::FlockOperation::Unlock).unwrap();

    let next = Homes::open(state.path(), None).unwrap();
    assert!(file.exists());
    next.settle().unwrap();

    assert!(!file.exists());
}

#[test]
fn a_state_directory_serves_one_server_at_a_time() {
    let state = tempfile::tempdir().unwrap();
    let first = Homes::open(state.path(), None).unwrap();

    assert!(Homes::open(state.path(), None).is_err());
    drop(first);
    assert!(Homes::open(state.path(), None).is_ok());
}
