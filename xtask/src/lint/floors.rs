//! The rooms of a crate: which of them import which, read from the `crate::` paths of its files.
//!
//! A crate whose front page has a table of floors keeps to it: a room uses those below its own floor, and those to its left on
//! its own. In every crate, no two rooms import each other.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use crate::workspace::Workspace;

/// The head of the table, in the documentation of a crate.
const HEAD: &str = "//! | floor | rooms";

/// Lines that a file of a crate with floors may have.
const LONGEST: usize = 400;

pub(super) fn check(workspace: &Workspace) -> Result<Vec<String>> {
    let mut faults = Vec::new();
    for package in workspace.members()? {
        let Some(folder) = package.manifest_path.parent().map(|folder| folder.join("src").into_std_path_buf()) else {
            continue;
        };
        let front = fs::read_to_string(folder.join("lib.rs")).unwrap_or_default();
        let files = files(&folder)?;
        let house = House::of(&files);
        let floors = Floors::of(&front);
        if let Some(floors) = &floors {
            anstream::print!("{}", floors.drawing(&package.name, &house));
        }
        let found = house.two_ways().into_iter().chain(floors.iter().flat_map(|floors| floors.faults(&house)));
        faults.extend(found.map(|fault| format!("{}: {fault}", package.name)));
        if floors.is_some() {
            let long = files.iter().filter(|file| file.lines > LONGEST);
            faults.extend(long.map(|file| {
                format!("{}: {} has {} lines, over {LONGEST}: split it", package.name, file.name, file.lines)
            }));
        }
    }
    Ok(faults)
}

/// A file, as seen from the crate's `src`, and the rooms that it imports.
#[derive(Debug)]
struct File {
    name: String,
    lines: usize,
    imports: BTreeSet<String>,
}

fn files(folder: &Path) -> Result<Vec<File>> {
    let (mut found, mut open) = (Vec::new(), vec![folder.to_owned()]);
    while let Some(next) = open.pop() {
        if !next.is_dir() {
            continue;
        }
        for entry in fs::read_dir(&next).with_context(|| format!("cannot list {}", next.display()))? {
            let path: PathBuf = entry?.path();
            if path.is_dir() {
                open.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let source = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
                let name = path.strip_prefix(folder).unwrap_or(&path).to_string_lossy().replace('\\', "/");
                found.push(File { name, lines: source.lines().count(), imports: imports(&source) });
            }
        }
    }
    found.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(found)
}

/// The first names behind `crate::`, in code that is neither a comment nor a test.
fn imports(source: &str) -> BTreeSet<String> {
    let code: String = source
        .lines()
        .take_while(|line| *line != "#[cfg(test)]")
        .map(|line| line.split("//").next().unwrap_or_default())
        .flat_map(|line| [line, "\n"])
        .collect();
    let mut found = BTreeSet::new();
    for (at, path) in code.match_indices("crate::") {
        if code.get(..at).is_some_and(|before| before.ends_with(|char: char| char.is_alphanumeric() || char == '_')) {
            continue;
        }
        let rest = code.get(at + path.len()..).unwrap_or_default();
        match rest.strip_prefix('{') {
            Some(group) => found.extend(heads(group)),
            None => found.extend(head(rest)),
        }
    }
    found
}

/// The names at the beginning of each path of a group, whose opening brace was before.
fn heads(group: &str) -> Vec<String> {
    let (mut depth, mut start, mut found) = (0_u32, 0, Vec::new());
    for (at, char) in group.char_indices() {
        match char {
            '{' => depth += 1,
            '}' if depth > 0 => depth -= 1,
            ',' | '}' if depth == 0 => {
                found.extend(group.get(start..at).and_then(head));
                start = at + 1;
                if char == '}' {
                    break;
                }
            }
            _ => {}
        }
    }
    found
}

fn head(path: &str) -> Option<String> {
    let name: String = path.trim_start().chars().take_while(|char| char.is_alphanumeric() || *char == '_').collect();
    (!name.is_empty() && name != "self").then_some(name)
}

/// Which room imports which, and a file that does.
#[derive(Debug, Default)]
struct House {
    arrows: BTreeMap<(String, String), String>,
    rooms: BTreeSet<String>,
}

impl House {
    fn of(files: &[File]) -> Self {
        let room = |name: &str| {
            let first = name.split('/').next().unwrap_or_default();
            first.strip_suffix(".rs").unwrap_or(first).to_owned()
        };
        let rooms: BTreeSet<String> =
            files.iter().map(|file| room(&file.name)).filter(|room| room != "lib" && room != "main").collect();
        let mut arrows = BTreeMap::new();
        for file in files {
            let from = room(&file.name);
            if !rooms.contains(&from) {
                continue;
            }
            for to in file.imports.iter().filter(|to| **to != from) {
                arrows.entry((from.clone(), to.clone())).or_insert_with(|| file.name.clone());
            }
        }
        Self { arrows, rooms }
    }

    fn two_ways(&self) -> Vec<String> {
        let mut faults = Vec::new();
        for ((from, to), file) in &self.arrows {
            if from < to
                && let Some(back) = self.arrows.get(&(to.clone(), from.clone()))
            {
                faults.push(format!("`{from}` and `{to}` import each other, in {file} and {back}"));
            }
        }
        faults
    }
}

/// The rooms in the order in which they may use each other: each those before it.
#[derive(Debug)]
struct Floors {
    /// The highest first, each with its number and its rooms from left to right.
    floors: Vec<(String, Vec<String>)>,
}

impl Floors {
    fn of(front: &str) -> Option<Self> {
        let rows = front.lines().skip_while(|line| !line.starts_with(HEAD)).skip(2);
        let floor = |row: &str| {
            let mut cells = row.trim_start_matches("//! |").split('|');
            let (number, rooms) = (cells.next()?.trim().to_owned(), cells.next()?);
            let rooms = rooms.split('`').skip(1).step_by(2).map(str::to_owned).collect();
            Some((number, rooms))
        };
        let floors: Vec<_> = rows.take_while(|line| line.starts_with("//! |")).filter_map(floor).collect();
        (!floors.is_empty()).then_some(Self { floors })
    }

    /// The higher, the more rooms a room may use.
    fn height(&self, room: &str) -> Option<usize> {
        let upwards = self.floors.iter().rev().flat_map(|(_, rooms)| rooms);
        upwards.enumerate().find(|(_, known)| *known == room).map(|(height, _)| height)
    }

    fn faults(&self, house: &House) -> Vec<String> {
        let mut faults = Vec::new();
        for room in &house.rooms {
            if self.height(room).is_none() {
                faults.push(format!("`{room}` has no floor: give it one in the table of lib.rs"));
            }
        }
        for ((from, to), file) in &house.arrows {
            match (self.height(from), self.height(to)) {
                (Some(from_height), Some(to_height)) if to_height > from_height => {
                    faults.push(format!("`{from}` must not use `{to}`, which is above it: {file}"));
                }
                (Some(_), None) => {
                    faults.push(format!("`{from}` takes `{to}` from the front door: name its room, in {file}"));
                }
                _ => {}
            }
        }
        faults
    }

    /// The house as text: the highest floor first, and behind each room those that it uses.
    fn drawing(&self, package: &str, house: &House) -> String {
        let mut text = format!("  {package}\n");
        for (number, rooms) in &self.floors {
            for room in rooms.iter().rev() {
                let used = house.arrows.keys().filter(|(from, _)| from == room).map(|(_, to)| to.as_str());
                let used: Vec<&str> = used.collect();
                let arrow = if used.is_empty() { String::new() } else { format!(" -> {}", used.join(", ")) };
                let _ = writeln!(text, "  {number}  {room:<11}{arrow}");
            }
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FRONT: &str = "//! A crate.\n//!\n//! | floor | rooms, each using those to its left |\n//! |---|---|\n\
                         //! | 1 | `above` |\n//! | 0 | `left`, `right` |\n//!\n//! More.\n";

    fn house(files: &[(&str, &str)]) -> House {
        let file =
            |(name, source): &(&str, &str)| File { name: (*name).to_owned(), lines: 1, imports: imports(source) };
        House::of(&files.iter().map(file).collect::<Vec<_>>())
    }

    #[test]
    fn names_behind_crate_are_imports_wherever_they_stand() {
        let source = "use crate::{a::{b, c}, d, self};\nuse crate::e::f;\n// use crate::comment;\n\
                      fn x() { crate::g::h(); my_crate::no(); }\n#[cfg(test)]\nmod tests { use crate::test; }\n";
        assert_eq!(imports(source).into_iter().collect::<Vec<_>>(), ["a", "d", "e", "g"]);
    }

    #[test]
    fn a_room_uses_those_below_and_those_to_its_left() {
        let floors = Floors::of(FRONT).unwrap();
        let good = house(&[
            ("above/mod.rs", "use crate::left::A; use crate::right;"),
            ("right.rs", "use crate::left;"),
            ("left.rs", ""),
            ("lib.rs", "use crate::above;"),
        ]);
        assert_eq!(floors.faults(&good), Vec::<String>::new());
        assert!(floors.drawing("x", &good).contains("1  above       -> left, right"));
        let bad = house(&[
            ("above/mod.rs", ""),
            ("left.rs", "use crate::right;"),
            ("right/deep.rs", "use crate::above;"),
            ("attic.rs", ""),
        ]);
        let said = floors.faults(&bad);
        assert_eq!(
            said,
            [
                "`attic` has no floor: give it one in the table of lib.rs",
                "`left` must not use `right`, which is above it: left.rs",
                "`right` must not use `above`, which is above it: right/deep.rs",
            ]
        );
        let front = house(&[("above/mod.rs", "use crate::Client;")]);
        assert_eq!(
            floors.faults(&front),
            ["`above` takes `Client` from the front door: name its room, in above/mod.rs"]
        );
    }

    #[test]
    fn two_rooms_that_import_each_other_are_named_with_their_files() {
        let both = house(&[("a.rs", "use crate::b;"), ("b/c.rs", "use crate::a;"), ("b/d.rs", "use crate::a;")]);
        assert_eq!(both.two_ways(), ["`a` and `b` import each other, in a.rs and b/c.rs"]);
    }
}
