//! Runs processes under strace and makes a [`Recording`] of their system calls.

use std::collections::HashMap;
use std::fs;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::crash::{Act, Inode, ROOT, Recording};

/// The calls that change files or make changes durable. A call among them that is not modelled is a panic.
const CALLS: &str = "trace=open,openat,creat,close,mkdir,mkdirat,rename,renameat,renameat2,unlink,unlinkat,rmdir,\
                     write,pwrite64,writev,pwritev,pwritev2,truncate,ftruncate,fallocate,link,linkat,symlink,symlinkat,\
                     sendfile,copy_file_range,splice,mmap,fsync,fdatasync,syncfs,sync,io_uring_setup";

/// More than the longest write: a segment of the database.
const STRING_BYTES: &str = "2000000";

/// Records what processes do to the files below one directory.
#[derive(Debug)]
pub struct Recorder {
    /// Absolute.
    root: PathBuf,
    log: PathBuf,
    before: Vec<Act>,
    acts: Vec<Act>,
    starts: Vec<usize>,
    tree: Tree,
}

impl Recorder {
    /// What is below `root` now is taken to be durable. `log` is a file for strace's output.
    pub fn new(root: &Path, log: PathBuf) -> Self {
        let mut recorder = Self {
            root: root.to_owned(),
            log,
            before: vec![],
            acts: vec![],
            starts: vec![],
            tree: Tree::default(),
        };
        recorder.find(root, ROOT);
        recorder.before = std::mem::take(&mut recorder.acts);
        recorder
    }

    fn find(&mut self, dir: &Path, inode: Inode) {
        let mut entries: Vec<_> =
            fs::read_dir(dir).expect("it can be listed").map(|entry| entry.expect("it can be")).collect();
        entries.sort_by_key(fs::DirEntry::path);
        for entry in entries {
            let (path, name) = (entry.path(), entry.file_name().into_string().expect("names are UTF-8"));
            let is_dir = path.is_dir();
            let new = self.create(inode, name, is_dir);
            if is_dir {
                self.find(&path, new);
            } else {
                let bytes = fs::read(&path).expect("it can be read");
                self.acts.push(Act::Write { file: new, at: 0, bytes });
            }
        }
    }

    /// Runs a program until it exits successfully or is killed by SIGKILL, and records what it did.
    pub fn run(&mut self, program: &Path, args: &[&str]) {
        let mut strace = Command::new("strace");
        strace.args(["-f", "-qq", "-y", "-xx", "-s", STRING_BYTES, "-e", CALLS, "-e", "signal=none", "-o"]);
        strace.arg(&self.log).arg(program).args(args).stdin(Stdio::null()).stdout(Stdio::null());
        let status = strace.status().expect("strace was found");
        // strace's exit status is the program's.
        assert!(status.success() || status.signal() == Some(9), "{} {args:?}: {status}", program.display());
        let text = fs::read_to_string(&self.log).expect("strace writes plain text");
        self.starts.push(self.acts.len());
        Process { unfinished: HashMap::new(), positions: HashMap::new() }.read(self, &text);
    }

    pub fn end(self) -> Recording {
        Recording { before: self.before, acts: self.acts, starts: self.starts, log: self.log }
    }

    fn create(&mut self, dir: Inode, name: String, is_dir: bool) -> Inode {
        let inode = self.tree.add(dir, &name);
        self.acts.push(Act::Create { dir, name, inode, is_dir });
        inode
    }

    /// The directory and the name in it; `None` if it is not below the root.
    fn place(&self, path: &Path) -> Option<(Inode, String)> {
        let below = path.strip_prefix(&self.root).ok()?;
        let name = below.file_name()?.to_str().expect("names are UTF-8").to_owned();
        let dir = below.parent().expect("it has a name");
        let dir = dir.iter().try_fold(ROOT, |at, name| self.tree.get(at, name.to_str()?));
        Some((dir.unwrap_or_else(|| panic!("{} is not known", path.display())), name))
    }

    fn inode(&self, path: &Path) -> Option<Inode> {
        if path == self.root {
            return Some(ROOT);
        }
        let (dir, name) = self.place(path)?;
        self.tree.get(dir, &name)
    }
}

/// The names as the processes see them.
#[derive(Debug, Default)]
struct Tree {
    names: HashMap<(Inode, String), Inode>,
    inodes: Inode,
}

impl Tree {
    fn get(&self, dir: Inode, name: &str) -> Option<Inode> {
        self.names.get(&(dir, name.to_owned())).copied()
    }

    fn add(&mut self, dir: Inode, name: &str) -> Inode {
        self.inodes += 1;
        self.names.insert((dir, name.to_owned()), self.inodes);
        self.inodes
    }
}

/// A process whose trace is being read.
struct Process {
    /// By thread: the first half of an interrupted call, and the number of acts when it was made.
    unfinished: HashMap<String, (String, usize)>,
    /// The write position of each open file.
    positions: HashMap<String, usize>,
}

impl Process {
    fn read(&mut self, recorder: &mut Recorder, text: &str) {
        for line in text.lines() {
            let (thread, call) = line.split_once(' ').expect("a line begins with its thread");
            let call = call.trim_start();
            if let Some(begun) = call.strip_suffix(" <unfinished ...>") {
                self.unfinished.insert(thread.to_owned(), (begun.to_owned(), recorder.acts.len()));
            } else if let Some(rest) = call.strip_prefix("<... ") {
                let (_, rest) = rest.split_once(" resumed>").expect("a call that is resumed");
                let (begun, at) = self.unfinished.remove(thread).expect("it was begun");
                self.call(recorder, &format!("{begun}{rest}"), at);
            } else if !call.starts_with("+++") && !call.starts_with("---") {
                self.call(recorder, call, recorder.acts.len());
            }
        }
    }

    fn call(&mut self, recorder: &mut Recorder, call: &str, begun_at: usize) {
        let Some((call, result)) = call.rsplit_once(" = ") else { panic!("no result: {}", start_of(call)) };
        let (name, args) = call.split_once('(').expect("a call has arguments");
        let args = args.trim_end().strip_suffix(')').expect("a call ends with a parenthesis");
        let args: Vec<&str> = args.split(", ").collect();
        // The call failed, or the process was killed during it.
        if result.starts_with('-') || result.starts_with('?') {
            return;
        }
        let returned = || result.parse::<usize>().expect("a number");
        let path = |arg: usize| quoted_path(args[arg]);
        let path_at =
            |dir: usize, arg: usize| descriptor_path(args[dir]).expect("-y names it").join(path(arg));
        match name {
            "openat" => {
                let (fd, opened) = (number_of(result), descriptor_path(result).expect("-y names it"));
                self.positions.insert(fd.to_owned(), 0);
                let (flags, Some((dir, name))) = (args[2], recorder.place(&opened)) else { return };
                match recorder.tree.get(dir, &name) {
                    None if flags.contains("O_CREAT") => drop(recorder.create(dir, name, false)),
                    None => panic!("{} was opened and never created", opened.display()),
                    Some(file) if flags.contains("O_TRUNC") => {
                        recorder.acts.push(Act::SetLength { file, length: 0 })
                    }
                    Some(_) => {}
                }
                assert!(!flags.contains("O_APPEND"), "appending is not modelled: {}", opened.display());
            }
            "close" => drop(self.positions.remove(number_of(args[0]))),
            "mkdir" => {
                let Some((dir, name)) = recorder.place(&path(0)) else { return };
                recorder.create(dir, name, true);
            }
            "rename" | "renameat" | "renameat2" => {
                let (from, to) =
                    if name == "rename" { (path(0), path(1)) } else { (path_at(0, 1), path_at(2, 3)) };
                let (Some((dir, from)), Some((to_dir, to))) = (recorder.place(&from), recorder.place(&to))
                else {
                    assert!(recorder.place(&to).is_none(), "{} came from outside", to.display());
                    return;
                };
                assert_eq!(dir, to_dir, "a rename across directories is not modelled");
                let inode = recorder.tree.names.remove(&(dir, from.clone())).expect("it was there");
                recorder.tree.names.insert((dir, to.clone()), inode);
                recorder.acts.push(Act::Rename { dir, from, to });
            }
            "unlink" | "rmdir" | "unlinkat" => {
                let path = if name == "unlinkat" { path_at(0, 1) } else { path(0) };
                let Some((dir, name)) = recorder.place(&path) else { return };
                recorder.tree.names.remove(&(dir, name.clone())).expect("it was there");
                recorder.acts.push(Act::Unlink { dir, name });
            }
            "write" | "pwrite64" => {
                let count = returned();
                let fd = number_of(args[0]);
                if fd == "1" {
                    let line = String::from_utf8(bytes_of(args[1])).expect("what is said is text");
                    recorder.acts.push(Act::Say(line.trim_end().to_owned()));
                    return;
                }
                let Some(file) = self.file(recorder, args[0]) else { return };
                let at = if name == "write" {
                    let position = self.positions.entry(fd.to_owned()).or_default();
                    *position += count;
                    *position - count
                } else {
                    args[3].parse().expect("an offset")
                };
                let mut bytes = bytes_of(args[1]);
                bytes.truncate(count);
                assert_eq!(bytes.len(), count, "strace shows all of a write");
                recorder.acts.push(Act::Write { file, at, bytes });
            }
            "ftruncate" => {
                let Some(file) = self.file(recorder, args[0]) else { return };
                recorder.acts.push(Act::SetLength { file, length: args[1].parse().expect("a length") });
            }
            "fsync" | "fdatasync" => {
                let Some(inode) = self.file(recorder, args[0]) else { return };
                recorder.acts.push(Act::Sync { inode, covers: begun_at });
            }
            "mmap" => {
                let shared = args[3].contains("MAP_SHARED") && args[2].contains("PROT_WRITE");
                assert!(
                    !shared || self.file(recorder, args[4]).is_none(),
                    "a file that is mapped to write to it"
                );
            }
            _ => {
                let below = args.iter().any(|arg| {
                    let path =
                        if arg.starts_with('"') { Some(quoted_path(arg)) } else { descriptor_path(arg) };
                    path.is_some_and(|path| recorder.place(&path).is_some())
                });
                assert!(!below, "{name} is not modelled: {}", start_of(call));
            }
        }
    }

    /// The file of a descriptor, if it is below the root and has a name.
    fn file(&self, recorder: &Recorder, descriptor: &str) -> Option<Inode> {
        if descriptor.ends_with("(deleted)") {
            return None;
        }
        let path = descriptor_path(descriptor)?;
        let inode = recorder.inode(&path);
        assert!(inode.is_some() || !path.starts_with(&recorder.root), "{} was never created", path.display());
        inode
    }
}

fn start_of(call: &str) -> &str {
    call.get(..400).unwrap_or(call)
}

/// `3<\x2f\x74>` is descriptor 3.
fn number_of(descriptor: &str) -> &str {
    descriptor.split('<').next().unwrap_or(descriptor)
}

fn descriptor_path(descriptor: &str) -> Option<PathBuf> {
    let (_, path) = descriptor.split_once('<')?;
    let path = path.rsplit_once('>')?.0;
    path.starts_with("\\x2f").then(|| path_of(path))
}

fn quoted_path(quoted: &str) -> PathBuf {
    path_of(quoted.trim_matches('"'))
}

fn path_of(hex: &str) -> PathBuf {
    PathBuf::from(String::from_utf8(unhex(hex)).expect("paths are UTF-8"))
}

fn bytes_of(quoted: &str) -> Vec<u8> {
    assert!(!quoted.ends_with("..."), "strace shows all of a write");
    unhex(quoted.trim_matches('"'))
}

/// Decodes `\x2f\x74`.
fn unhex(text: &str) -> Vec<u8> {
    let digit = |byte: u8| (byte as char).to_digit(16).expect("-xx shows every byte in hexadecimal") as u8;
    text.as_bytes().chunks_exact(4).map(|chunk| digit(chunk[2]) << 4 | digit(chunk[3])).collect()
}
