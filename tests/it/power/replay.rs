//! The files that a power cut may leave, built from the recording of `tests/power/record.c`.
//!
//! A write to a file is durable if a sync of the file began after it and has returned, or if the file has
//! the flag S and the write has returned. Of all other writes, each sector of 512 or 4,096 bytes may have
//! any version since the last durable one, independently of other sectors. The size of the file may be
//! the old or the new one; bytes between them that were not written are zeros.
//!
//! Names are a journal, as in ext4, XFS and Btrfs: a prefix of all changes is durable, at least up to the
//! change that a sync of a folder, a sync of a new file, or the flags made durable.

use backscroll_testkit::Random;
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

const WRITE_BEGIN: u8 = 1;
const WRITE_END: u8 = 2;
const SYNC_BEGIN: u8 = 3;
const SYNC_END: u8 = 4;
const OPEN: u8 = 5;
const CREATE: u8 = 6;
const TRUNCATE: u8 = 7;
const RENAME: u8 = 8;
const UNLINK: u8 = 9;
const MKDIR: u8 = 10;
const LINK: u8 = 11;
const FLAGS: u8 = 12;
const FLAG_SYNC: u64 = 0x8;
const FLAG_DIRSYNC: u64 = 0x1_0000;
const HEAD_BYTES: usize = 24;

/// One recorded file operation.
pub(crate) struct Record {
    op: u8,
    is_dir: bool,
    inode: u32,
    offset: u64,
    length: u64,
    names: Vec<String>,
    data: Vec<u8>,
}

/// Reads a recording. An incomplete last record is ignored.
pub(crate) fn read_log(path: &Path) -> Vec<Record> {
    let bytes = fs::read(path).unwrap_or_default();
    let (mut records, mut at) = (Vec::new(), 0);
    while let Some(head) = bytes.get(at..at + HEAD_BYTES) {
        let number = |from: usize, to: usize| {
            head[from..to].iter().rev().fold(0_u64, |sum, it| sum << 8 | u64::from(*it))
        };
        let (op, names, length) = (head[0], usize::try_from(number(2, 4)).unwrap(), number(16, 24));
        let data = if op == WRITE_BEGIN { usize::try_from(length).unwrap() } else { 0 };
        let end = at + HEAD_BYTES + names + data;
        let Some(rest) = bytes.get(at + HEAD_BYTES..end) else { break };
        let names_of = |it: &[u8]| String::from_utf8(it.to_vec()).unwrap();
        records.push(Record {
            op,
            is_dir: head[1] != 0,
            inode: u32::try_from(number(4, 8)).unwrap(),
            offset: number(8, 16),
            length,
            names: rest[..names].split(|it| *it == 0).map(names_of).collect(),
            data: rest[names..].to_vec(),
        });
        at = end;
    }
    records
}

/// A write, or a change of a file's length, that may not be durable.
#[derive(Clone)]
struct Change<'a> {
    begun: usize,
    offset: usize,
    /// `None` for a change of the length to `offset`.
    data: Option<&'a [u8]>,
    has_ended: bool,
}

impl Change<'_> {
    fn end(&self) -> usize {
        self.offset + self.data.map_or(0, <[u8]>::len)
    }

    fn apply(&self, bytes: &mut Vec<u8>) {
        match self.data {
            None => bytes.resize(self.offset, 0),
            Some(data) => put(bytes, self.offset, data),
        }
    }
}

fn put(bytes: &mut Vec<u8>, offset: usize, data: &[u8]) {
    let end = offset + data.len();
    if bytes.len() < end {
        bytes.resize(end, 0);
    }
    bytes[offset..end].copy_from_slice(data);
}

#[derive(Default)]
struct File<'a> {
    /// The durable content.
    durable: Vec<u8>,
    pending: Vec<Change<'a>>,
    /// Whether each write is durable when it returns.
    is_sync: bool,
}

/// What a name refers to.
#[derive(Clone)]
enum Node {
    Folder,
    /// A file that the recording never opens.
    Base(Vec<u8>),
    Inode(u32),
}

/// Which of the changes that are not durable survive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Style {
    Nothing,
    Everything,
    Prefix,
    Suffix,
    One,
    AllButOne,
    Some,
    Sectors,
}

const STYLES: [Style; 9] = [
    Style::Nothing,
    Style::Everything,
    Style::Prefix,
    Style::Suffix,
    Style::One,
    Style::AllButOne,
    Style::Some,
    Style::Sectors,
    Style::Sectors,
];

/// Replays a recording once: cuts are requested in the order of their records.
pub(crate) struct Replay<'a> {
    log: &'a [Record],
    at: usize,
    files: BTreeMap<u32, File<'a>>,
    /// The names before the first record.
    tree: BTreeMap<String, Node>,
    /// The records that change names, and the number of them that are durable.
    names: Vec<usize>,
    certain: usize,
    /// The number of name changes that each started sync covers.
    covers: BTreeMap<usize, usize>,
    created: BTreeMap<u32, usize>,
    folders: BTreeSet<u32>,
    dirsync: BTreeSet<String>,
    path_of_folder: BTreeMap<u32, String>,
}

impl<'a> Replay<'a> {
    /// Starts a replay with the folder as it was before the recording.
    pub(crate) fn new(log: &'a [Record], base: &Path) -> Self {
        let mut tree = BTreeMap::new();
        if base.exists() {
            read_tree(base, "", &mut tree);
        }
        Self {
            log,
            at: 0,
            files: BTreeMap::new(),
            tree,
            names: Vec::new(),
            certain: 0,
            covers: BTreeMap::new(),
            created: BTreeMap::new(),
            folders: BTreeSet::new(),
            dirsync: BTreeSet::new(),
            path_of_folder: BTreeMap::new(),
        }
    }

    fn advance(&mut self, to: usize) {
        while self.at < to {
            let seq = self.at;
            self.at += 1;
            let record = &self.log[seq];
            match record.op {
                OPEN | CREATE | MKDIR | RENAME | UNLINK | LINK => self.name(seq, record),
                FLAGS => self.flags(record),
                WRITE_BEGIN | WRITE_END | TRUNCATE => self.change(seq, record),
                SYNC_BEGIN => drop(self.covers.insert(seq, self.names.len())),
                SYNC_END => self.synced(record),
                other => panic!("no such record: {other}"),
            }
        }
    }

    fn name(&mut self, seq: usize, record: &Record) {
        let path = &record.names[0];
        if record.is_dir && record.op != UNLINK {
            self.folders.insert(record.inode);
            self.path_of_folder.insert(record.inode, path.clone());
        }
        match record.op {
            OPEN => {
                if !record.is_dir {
                    let held = match self.tree.get(path) {
                        Some(Node::Base(bytes)) => bytes.clone(),
                        _ => Vec::new(),
                    };
                    self.files.insert(record.inode, File { durable: held, ..File::default() });
                    self.tree.insert(path.clone(), Node::Inode(record.inode));
                }
                return;
            }
            CREATE => {
                self.files.insert(record.inode, File::default());
                self.created.insert(record.inode, self.names.len());
            }
            _ => {}
        }
        self.names.push(seq);
        // A change in a folder with the flag D makes itself and all earlier changes durable.
        let folder = |it: &String| it.rsplit_once('/').map_or("", |it| it.0).to_owned();
        if record.names.iter().any(|it| !it.is_empty() && self.dirsync.contains(&folder(it))) {
            self.certain = self.names.len();
        }
    }

    fn flags(&mut self, record: &Record) {
        if let Some(path) = self.path_of_folder.get(&record.inode) {
            if record.offset & FLAG_DIRSYNC != 0 {
                self.dirsync.insert(path.clone());
            }
        } else if let Some(file) = self.files.get_mut(&record.inode) {
            file.is_sync = record.offset & FLAG_SYNC != 0;
        }
    }

    fn change(&mut self, seq: usize, record: &'a Record) {
        let Some(file) = self.files.get_mut(&record.inode) else { return };
        let offset = usize::try_from(record.offset).unwrap();
        match record.op {
            WRITE_BEGIN => {
                let data = Some(record.data.as_slice());
                file.pending.push(Change { begun: seq, offset, data, has_ended: false });
            }
            WRITE_END => {
                let Some(at) = file.pending.iter().position(|it| it.begun == offset) else {
                    return;
                };
                let written = usize::try_from(record.length).unwrap();
                let change = &mut file.pending[at];
                change.data = change.data.map(|it| &it[..written]);
                change.has_ended = true;
                if file.is_sync {
                    file.pending.remove(at).apply(&mut file.durable);
                    // The sync writes the journal up to here, and with it the names.
                    self.certain = self.names.len();
                }
            }
            _ => {
                let change = Change { begun: seq, offset, data: None, has_ended: true };
                if file.is_sync {
                    change.apply(&mut file.durable);
                } else {
                    file.pending.push(change);
                }
            }
        }
    }

    fn synced(&mut self, record: &Record) {
        let begun = usize::try_from(record.offset).unwrap();
        let covers = self.covers.remove(&begun).unwrap_or(0);
        if self.folders.contains(&record.inode) {
            self.certain = self.certain.max(covers);
            return;
        }
        if let Some(at) = self.created.get(&record.inode) {
            self.certain = self.certain.max(at + 1);
        }
        let Some(file) = self.files.get_mut(&record.inode) else { return };
        let (covered, rest) =
            file.pending.drain(..).partition(|it: &Change<'_>| it.has_ended && it.begun < begun);
        file.pending = rest;
        covered.iter().for_each(|it: &Change<'_>| it.apply(&mut file.durable));
    }

    /// Writes the files that a cut before a record may leave into a folder; returns a description.
    pub(crate) fn cut(&mut self, at: usize, out: &Path, random: &mut Random) -> String {
        self.advance(at);
        let style = STYLES[below(random, STYLES.len())];
        let sector = [512, 4_096][below(random, 2)];
        let names = match style {
            Style::Nothing => self.certain,
            Style::Everything => self.names.len(),
            _ => {
                let between = self.certain + below(random, self.names.len() - self.certain + 1);
                [self.certain, self.names.len(), between][below(random, 3)]
            }
        };
        let mut tree = self.tree.clone();
        for seq in &self.names[..names] {
            rename(&mut tree, &self.log[*seq]);
        }
        fs::create_dir_all(out).unwrap();
        // In the order of the paths: a folder is created before its files.
        for (path, node) in &tree {
            let path = out.join(path.trim_start_matches('/'));
            let parent = path.parent().unwrap();
            if !parent.is_dir() {
                continue;
            }
            match node {
                Node::Folder => fs::create_dir_all(&path).unwrap(),
                Node::Base(bytes) => fs::write(&path, bytes).unwrap(),
                Node::Inode(inode) => {
                    let bytes = left(&self.files[inode], style, sector, random);
                    fs::write(&path, bytes).unwrap();
                }
            }
        }
        let pending: usize = self.files.values().map(|it| it.pending.len()).sum();
        format!(
            "{style:?}/{sector} at {at} of {}, names {names} of {}, {pending} uncertain writes",
            self.log.len(),
            self.names.len()
        )
    }
}

fn below(random: &mut Random, end: usize) -> usize {
    usize::try_from(random.below(end.try_into().unwrap())).unwrap()
}

fn chance(random: &mut Random, percent: u64) -> bool {
    random.below(100) < percent
}

fn read_tree(folder: &Path, below: &str, tree: &mut BTreeMap<String, Node>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = format!("{below}/{}", path.file_name().unwrap().to_str().unwrap());
        if path.is_dir() {
            tree.insert(name.clone(), Node::Folder);
            read_tree(&path, &name, tree);
        } else {
            tree.insert(name, Node::Base(fs::read(&path).unwrap()));
        }
    }
}

fn rename(tree: &mut BTreeMap<String, Node>, record: &Record) {
    let path = &record.names[0];
    match record.op {
        CREATE => drop(tree.insert(path.clone(), Node::Inode(record.inode))),
        MKDIR => drop(tree.insert(path.clone(), Node::Folder)),
        UNLINK => drop(tree.remove(path)),
        RENAME => {
            if let Some(node) = tree.remove(path) {
                tree.insert(record.names[1].clone(), node);
            }
        }
        _ => {
            if let Some(node) = tree.get(path).cloned() {
                tree.insert(record.names[1].clone(), node);
            }
        }
    }
}

/// The content of a file after a cut.
fn left(file: &File<'_>, style: Style, sector: usize, random: &mut Random) -> Vec<u8> {
    let (mut bytes, pending) = (file.durable.clone(), &file.pending);
    if pending.is_empty() || style == Style::Nothing {
        return bytes;
    }
    let (cut, one) = (below(random, pending.len() + 1), below(random, pending.len()));
    let percent = [10, 50, 90][below(random, 3)];
    let of_sectors = if style == Style::Sectors { [10, 50, 90, 97][below(random, 4)] } else { 100 };
    let tears = chance(random, 50);
    let old = bytes.len();
    let (mut full, mut kept) = (old, old);
    // When a version of a sector is lost, later versions of it are lost too.
    let mut lost = BTreeSet::new();
    for (number, change) in pending.iter().enumerate() {
        let is_taken = match style {
            Style::Nothing => false,
            Style::Everything | Style::Sectors => true,
            Style::Prefix => number < cut,
            Style::Suffix => number >= cut,
            Style::One => number == one,
            Style::AllButOne => number != one,
            Style::Some => chance(random, percent),
        };
        full = if change.data.is_some() { full.max(change.end()) } else { change.offset };
        if !is_taken {
            continue;
        }
        let Some(data) = change.data else {
            change.apply(&mut bytes);
            kept = kept.min(change.offset);
            continue;
        };
        let is_torn =
            style == Style::Sectors || (style != Style::Everything && tears && chance(random, 30));
        if !is_torn {
            change.apply(&mut bytes);
            kept = kept.max(change.end());
            continue;
        }
        for at in change.offset / sector..change.end().div_ceil(sector) {
            if lost.contains(&at)
                || !chance(random, if style == Style::Sectors { of_sectors } else { 50 })
            {
                lost.insert(at);
                continue;
            }
            let from = change.offset.max(at * sector);
            let to = change.end().min((at + 1) * sector);
            put(&mut bytes, from, &data[from - change.offset..to - change.offset]);
            kept = kept.max(to);
        }
    }
    if style != Style::Everything {
        let has_cut = pending.iter().any(|it| it.data.is_none());
        let sizes = if has_cut { [bytes.len(), full, full, full] } else { [old, full, kept, kept] };
        bytes.resize(sizes[below(random, 4)], 0);
    }
    bytes
}
