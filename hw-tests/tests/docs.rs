//! What the documents point at is there: files, headings, and the tests that they name as proof.

// A test that cannot go on has failed, and its line says where.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Last columns of tables whose rows each name a test.
const PROOFS: [&str; 3] = ["asserted by", "proved by", "forced by"];

fn root() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    root.canonicalize().unwrap()
}

/// All files below `folder` that end in `.extension`, built ones left out.
fn files(folder: &Path, extension: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        if path.is_dir() && name != "target" && !name.starts_with('.') {
            found.extend(files(&path, extension));
        } else if path.extension().is_some_and(|it| it == extension) {
            found.push(path);
        }
    }
    found
}

/// Every document of the repository, by its path, with its text.
fn documents() -> Vec<(PathBuf, String)> {
    let documents = files(&root(), "md").into_iter();
    documents
        .map(|path| (path.clone(), fs::read_to_string(path).unwrap()))
        .collect()
}

/// What stands between `start` and `end`, as often as it does.
fn between<'a>(text: &'a str, start: &'a str, end: char) -> impl Iterator<Item = &'a str> {
    let pieces = text.split(start).skip(1);
    pieces.filter_map(move |piece| Some(piece.split_once(end)?.0))
}

/// As GitHub names the place of a heading.
fn anchor(heading: &str) -> String {
    let kept = |c: &char| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_');
    let text: String = heading.trim().chars().filter(kept).collect();
    text.to_lowercase().replace(' ', "-")
}

fn has_heading(document: &Path, wanted: &str) -> bool {
    let text = fs::read_to_string(document).unwrap();
    let headings = text.lines().filter(|line| line.starts_with('#'));
    headings
        .map(|line| anchor(line.trim_start_matches('#')))
        .any(|anchor| anchor == wanted)
}

#[test]
fn every_link_of_a_document_leads_somewhere() {
    let mut broken = Vec::new();
    let mut links = 0;
    for (path, text) in documents() {
        for target in between(&text, "](", ')') {
            if target.contains("://") {
                continue;
            }
            links += 1;
            let (file, heading) = target.split_once('#').unwrap_or((target, ""));
            let file = match file {
                "" => path.clone(),
                file => path.parent().unwrap().join(file),
            };
            let is_there = file.exists() && (heading.is_empty() || has_heading(&file, heading));
            if !is_there {
                broken.push(format!("{}: {target}", path.display()));
            }
        }
    }
    assert!(links > 20, "only {links} links found");
    assert!(broken.is_empty(), "broken links:\n{}", broken.join("\n"));
}

/// Names of all functions in the tree's sources.
fn functions() -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for path in files(&root(), "rs") {
        let text = fs::read_to_string(path).unwrap();
        names.extend(between(&text, "fn ", '(').map(str::to_owned));
    }
    names
}

/// The rows of all tables of `text` whose last column is one of [`PROOFS`]; first and last cell.
fn proofs(text: &str) -> Vec<(&str, &str)> {
    let mut rows = Vec::new();
    let mut proving = false;
    for line in text.lines() {
        let cells = line.strip_prefix("| ").and_then(|it| it.strip_suffix(" |"));
        let ends = |cells| str::split_once(cells, " | ").zip(str::rsplit_once(cells, " | "));
        match cells.and_then(ends) {
            None => proving = false,
            Some(((_, _), (_, last))) if PROOFS.contains(&last) => proving = true,
            Some(((first, _), (_, last))) if proving && !last.starts_with("---") => {
                rows.push((first, last));
            }
            Some(_) => (),
        }
    }
    rows
}

#[test]
fn every_promise_and_invariant_names_tests_that_exist() {
    let functions = functions();
    let makefile = fs::read_to_string(root().join("Makefile")).unwrap();
    let mut proved = BTreeSet::new();
    for (path, text) in documents() {
        for (what, tests) in proofs(&text) {
            let mut named = 0;
            // Between the first backtick and the second, the third and the fourth …
            for name in tests.split('`').skip(1).step_by(2) {
                if let Some(target) = name.strip_prefix("make ") {
                    assert!(makefile.contains(&format!("\n{target}:")), "{name}");
                    named += 1;
                } else if name.matches('_').count() > 2 {
                    let of = path.display();
                    assert!(functions.contains(name), "{of}: no test is called {name}");
                    named += 1;
                }
            }
            assert!(named > 0, "{}: nothing proves {what}", path.display());
            proved.insert(what.to_owned());
        }
    }
    let promises = (1..=6).map(|n| format!("P{n}"));
    for what in promises.chain((1..=12).map(|n| format!("I{n}"))) {
        assert!(proved.contains(&what), "no row for {what}");
    }
}
