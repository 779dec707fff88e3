//! The help of every command, held to the files in `golden/help`. `UPDATE_GOLDEN=1` rewrites them.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use clap::CommandFactory;
use hawser_control::cli::Cli;

#[test]
fn help_is_golden() {
    let directory = PathBuf::from("tests/golden/help");
    let update = std::env::var_os("UPDATE_GOLDEN").is_some();
    let mut paths = Vec::new();
    visible(&Cli::command(), &mut Vec::new(), &mut paths);
    assert!(paths.len() > 10, "every command and the program itself: {paths:?}");

    let mut expected: Vec<PathBuf> = Vec::new();
    for path in paths {
        let output = Command::new(env!("CARGO_BIN_EXE_hawser"))
            .args(&path)
            .arg("--help")
            .env_clear()
            .output()
            .unwrap();
        assert!(output.status.success(), "{path:?}");
        let shown = String::from_utf8(output.stdout).unwrap();
        assert!(path.is_empty() || shown.contains("Usage: hawser"), "{shown}");
        let name = [vec!["hawser".to_owned()], path].concat().join("-");
        let file = directory.join(format!("{name}.txt"));
        if update {
            fs::write(&file, &shown).unwrap();
        }
        let golden = fs::read_to_string(&file).unwrap_or_default();
        assert!(
            shown == golden,
            "{} differs; if that is intended: make golden\n--- is\n{shown}\n--- was\n{golden}",
            file.display()
        );
        expected.push(file);
    }
    for entry in fs::read_dir(&directory).unwrap() {
        let file = entry.unwrap().path();
        assert!(expected.contains(&file), "{} belongs to no command", file.display());
    }
}

/// Every command teaches by example.
#[test]
fn every_command_has_examples() {
    let root = Cli::command();
    let mut paths = Vec::new();
    visible(&root, &mut Vec::new(), &mut paths);
    for path in paths {
        let command = path.iter().fold(&root, |command, name| {
            command.find_subcommand(name).expect("the path was taken from it")
        });
        if command.has_subcommands() && !path.is_empty() {
            continue;
        }
        let after = command.get_after_help().map(ToString::to_string).unwrap_or_default();
        assert!(after.contains("hawser "), "{path:?} has no example");
    }
}

fn visible(command: &clap::Command, path: &mut Vec<String>, found: &mut Vec<Vec<String>>) {
    found.push(path.clone());
    for sub in command.get_subcommands().filter(|sub| !sub.is_hide_set()) {
        path.push(sub.get_name().to_owned());
        visible(sub, path, found);
        path.pop();
    }
}
