//! Tests of rules for the source tree: the map is complete, the module graph has no cycle, files and
//! functions are short, and comments give reasons.
#![expect(clippy::expect_used, reason = "a failed expectation fails the test")]

mod harness;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use harness::sources;

/// A file without its unit tests.
fn without_tests(text: &str) -> &str {
    text.split("#[cfg(test)]\nmod tests").next().unwrap_or_default()
}

/// The file that defines an item: `ledger/book.rs` for `ledger::book::Book`.
fn file_of<'a>(module: &str, files: &'a BTreeMap<String, String>) -> Option<&'a str> {
    let mut parts: Vec<_> = module.split("::").collect();
    while !parts.is_empty() {
        let path = parts.join("/");
        let found = [format!("{path}.rs"), format!("{path}/mod.rs")];
        if let Some((name, _)) = found.iter().find_map(|name| files.get_key_value(name)) {
            return Some(name);
        }
        parts.pop();
    }
    None
}

/// Every path that follows `crate::`, with one level of braces expanded.
fn paths_in(text: &str) -> Vec<String> {
    let code: String = text.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n");
    let mut paths = Vec::new();
    for (at, _) in code.match_indices("crate::") {
        let rest = &code[at + "crate::".len()..];
        let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_' && c != ':').unwrap_or(rest.len());
        let path = rest[..end].trim_end_matches(':');
        match rest[end..].strip_prefix('{') {
            Some(list) => {
                let list = list.split('}').next().unwrap_or_default();
                let below = |item: &str| [path, item.trim()].join("::").trim_start_matches(':').to_owned();
                paths.extend(list.split(',').map(below));
            }
            None => paths.push(path.to_owned()),
        }
    }
    paths
}

/// The files that each file imports.
fn graph(files: &BTreeMap<String, String>) -> BTreeMap<&str, BTreeSet<&str>> {
    let imports = |name: &str, text: &str| -> BTreeSet<_> {
        let paths = paths_in(without_tests(text));
        // `paths_in` does not find imports by `super::`.
        assert!(!without_tests(text).contains("super::"), "{name} must import by `crate::`");
        paths.iter().filter_map(|path| file_of(path, files)).filter(|file| *file != name).collect()
    };
    files.iter().map(|(name, text)| (name.as_str(), imports(name, text))).collect()
}

/// A path of imports from a file back to itself.
fn cycle<'a>(from: &'a str, graph: &BTreeMap<&'a str, BTreeSet<&'a str>>) -> Option<Vec<&'a str>> {
    let mut paths = vec![vec![from]];
    let mut visited = BTreeSet::new();
    while let Some(path) = paths.pop() {
        let last = path.last().copied().unwrap_or(from);
        for next in graph.get(last).into_iter().flatten() {
            let further = [&path[..], &[*next]].concat();
            if *next == from {
                return Some(further);
            }
            if visited.insert(*next) {
                paths.push(further);
            }
        }
    }
    None
}

#[test]
fn the_module_graph_has_no_cycle() {
    let files: BTreeMap<_, _> = sources().into_iter().collect();
    let graph = graph(&files);
    let imports: usize = graph.values().map(BTreeSet::len).sum();
    assert!(imports > 100, "only {imports} imports found: {graph:?}");
    for file in files.keys() {
        assert_eq!(cycle(file, &graph), None);
    }
    // `cycle` finds a cycle if there is one.
    let looped =
        BTreeMap::from([("a", BTreeSet::from(["b"])), ("b", BTreeSet::from(["c"])), ("c", BTreeSet::from(["a"]))]);
    assert_eq!(cycle("a", &looped), Some(vec!["a", "b", "c", "a"]));
}

#[test]
fn imports_are_found_in_every_form() {
    let text = "use crate::{a::b, c};\nuse crate::d::{self, E};\nlet x = crate::f::g();\n// crate::h\n";
    assert_eq!(paths_in(text), ["a::b", "c", "d::self", "d::E", "f::g"]);
}

#[test]
fn the_map_names_every_file_and_no_other() {
    let map = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/lib.rs")).expect("readable");
    let (_, map) = map.split_once("```text\n").expect("a map");
    let (map, _) = map.split_once("//! ```").expect("an end");
    let mut named = BTreeSet::new();
    let mut folders: Vec<&str> = Vec::new();
    for line in map.lines().filter_map(|line| line.strip_prefix("//! ")) {
        let (name, sentence) = line.trim().split_once(' ').unwrap_or((line.trim(), ""));
        folders.truncate((line.len() - line.trim_start().len()) / 2);
        if let Some(folder) = name.strip_suffix('/') {
            folders.push(folder);
            continue;
        }
        assert!(sentence.trim().len() > 5, "{name} has no sentence");
        let path = [&folders[..], &[name]].concat().join("/");
        assert!(named.insert(path.clone()), "{path} is named twice");
    }
    let files = all_files();
    assert_eq!(named, files);
}

/// Every file below `src`.
fn all_files() -> BTreeSet<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut folders = vec![root.clone()];
    let mut files = BTreeSet::new();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path()) {
            if entry.is_dir() {
                folders.push(entry);
            } else {
                files.insert(entry.strip_prefix(&root).expect("below src").to_str().expect("UTF-8").to_owned());
            }
        }
    }
    files
}

#[test]
fn files_and_functions_stay_readable() {
    for (name, text) in sources() {
        let lines = text.lines().count();
        assert!(lines <= 400, "{name} has {lines} lines");
        let base_name = name.rsplit('/').next().unwrap_or_default();
        assert!(
            !["utils.rs", "types.rs", "common.rs", "helpers.rs"].contains(&base_name),
            "{name} has a name that means nothing"
        );
        let mut start = None;
        for (at, line) in text.lines().enumerate() {
            let code = line.trim_start();
            let is_function = ["fn ", "pub fn ", "pub(crate) fn "].iter().any(|begin| code.starts_with(begin));
            let indent = line.len() - code.len();
            if is_function && start.is_none() {
                start = Some((at, indent));
            }
            if let Some((from, depth)) = start
                && indent == depth
                && (code == "}" || code.ends_with(" }") || code.ends_with("{}"))
            {
                assert!(at - from < 60, "{name}: the function in line {} has {} lines", from + 1, at - from + 1);
                start = None;
            }
            if code.ends_with(';') && start.is_some_and(|(from, depth)| from == at && depth == indent) {
                start = None;
            }
        }
    }
}

#[test]
fn comments_give_reasons() {
    let (mut code, mut reasons) = (0, 0);
    for (_, text) in sources() {
        for line in without_tests(&text).lines().map(str::trim_start).filter(|line| !line.is_empty()) {
            let is_reason = line.starts_with("// ") || line.contains(" // ");
            reasons += usize::from(is_reason);
            code += usize::from(!line.starts_with("//"));
        }
    }
    assert!(reasons * 20 >= code, "{reasons} reasons in {code} lines of code");
}

#[test]
fn a_noun_names_one_type() {
    let mut owners: BTreeMap<String, String> = BTreeMap::new();
    for (name, text) in sources() {
        for line in without_tests(&text).lines() {
            let line = line.trim_start().trim_start_matches("pub(crate) ").trim_start_matches("pub ");
            let noun = ["struct ", "enum ", "trait "].iter().find_map(|kind| line.strip_prefix(kind));
            let noun = noun.and_then(|rest| rest.split(|c: char| !c.is_alphanumeric()).next());
            if let Some(other) = noun.and_then(|noun| owners.insert(noun.to_owned(), name.clone())) {
                panic!("{noun:?} is a type in {other} and in {name}");
            }
        }
    }
    assert!(owners.len() > 80, "{} types found", owners.len());
}
