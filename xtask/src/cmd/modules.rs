//! The tests that need root, by the modules of their programs. Each module is run by itself.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail, ensure};
use xtask::command;

use super::cargo::Executable;

/// The package whose programs of tests have modules.
pub(crate) const PACKAGE: &str = "tests";

/// The other package that has tests that need root. These are few, and run as one module.
const BESIDE: &str = "steer-user";

/// A module of a program of tests, and those of its tests that need root.
pub(crate) struct Module {
    /// The module's name. In the other package it is the program's name.
    pub(crate) name: String,
    /// The program's name.
    pub(crate) program: String,
    /// The file of the program.
    pub(crate) file: PathBuf,
    /// Directory of the program's package.
    pub(crate) package_dir: PathBuf,
    /// The whole names of the module's tests.
    pub(crate) tests: Vec<String>,
}

impl Module {
    /// Whether a name means this module: it may be the module's own name, or its program's.
    pub(crate) fn is(&self, name: &str) -> bool {
        self.name == name || self.program == name
    }

    /// Whether one of these names means this module.
    pub(crate) fn is_any(&self, names: &[String]) -> bool {
        names.iter().any(|name| self.is(name))
    }
}

/// The modules of all programs that were built.
pub(crate) fn modules(built: &[Executable]) -> Result<Vec<Module>> {
    let mut all = Vec::new();
    for program in built.iter().filter(|program| program.is_test) {
        if program.package_dir.ends_with(PACKAGE) {
            all.extend(of(program, &list(program)?, first_part)?);
        } else if program.package_dir.ends_with(BESIDE) {
            all.extend(of(program, &list(program)?, |_test| Some(&program.target))?);
        }
    }
    check(&all)?;
    Ok(all)
}

/// Fails if a name by which modules can be asked for means two things.
fn check(modules: &[Module]) -> Result<()> {
    let programs: BTreeSet<&str> = modules
        .iter()
        .filter(|module| module.name != module.program)
        .map(|module| module.program.as_str())
        .collect();
    let mut names = programs;
    for Module { name, program, .. } in modules {
        ensure!(
            names.insert(name),
            "{name} of {program} has the name of another program or module of tests"
        );
    }
    Ok(())
}

/// The whole names of those tests of a program that need root.
fn list(program: &Executable) -> Result<Vec<String>> {
    let mut list = Command::new(&program.file);
    list.args(["--list", "--ignored", "--format", "terse"])
        .current_dir(&program.package_dir)
        .stdin(Stdio::null())
        .stderr(Stdio::inherit());
    let output = list
        .output()
        .with_context(|| format!("failed to start {}", command::line(&list)))?;
    if !output.status.success() {
        bail!("{} failed: {}", command::line(&list), output.status);
    }
    let listed = String::from_utf8(output.stdout)?;
    let tests = listed
        .lines()
        .filter_map(|line| line.strip_suffix(": test"));
    Ok(tests.map(str::to_owned).collect())
}

fn first_part(test: &str) -> Option<&str> {
    test.split_once("::").map(|(module, _)| module)
}

/// The modules of a program that has these tests.
fn of<'a>(
    program: &Executable,
    tests: &'a [String],
    module: impl Fn(&'a str) -> Option<&'a str>,
) -> Result<Vec<Module>> {
    let mut modules: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for test in tests {
        let name = module(test).with_context(|| format!("{test} is in no module"))?;
        modules.entry(name).or_default().push(test.clone());
    }
    let modules = modules.into_iter().map(|(name, tests)| Module {
        name: name.to_owned(),
        program: program.target.clone(),
        file: program.file.clone(),
        package_dir: program.package_dir.clone(),
        tests,
    });
    Ok(modules.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn modules_of(program: &str, tests: &[&str]) -> Vec<Module> {
        let program = Executable {
            target: program.to_owned(),
            package_dir: PathBuf::from("/steer/tests"),
            file: PathBuf::from("/steer/target/debug/deps/program"),
            is_test: true,
        };
        let tests: Vec<String> = tests.iter().map(ToString::to_string).collect();
        of(&program, &tests, first_part).expect("each is in a module")
    }

    #[test]
    fn tests_are_put_together_by_module() {
        let modules = modules_of("commands", &["drain::one", "evict::a", "drain::two::three"]);
        let [drain, evict] = &modules[..] else {
            panic!("not two modules");
        };
        assert_eq!(drain.tests, ["drain::one", "drain::two::three"]);
        assert_eq!(evict.tests, ["evict::a"]);
        assert!(drain.is("drain") && drain.is("commands") && !drain.is("evict"));
    }

    #[test]
    fn a_name_that_means_two_things_is_refused() {
        let mut modules = modules_of("commands", &["drain::one"]);
        check(&modules).expect("one of each");
        modules.extend(modules_of("policies", &["drain::two"]));
        check(&modules).expect_err("two are called drain");
        check(&modules_of("drain", &["drain::one", "evict::two"])).expect_err("module and program");
    }
}
