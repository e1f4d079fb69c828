//! The programs that a machine can run: the tables `[programs.NAME]`.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs::File;
use std::io::Read as _;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use reloop_node::config::{Wrong, whole};
use rustix::fs::{Access, access};
use serde::Deserialize;

use super::names::check_name;
use super::params::{Param, ParamError, RawParam};

/// A week: longer than any machine needs to stop, and far from any overflow.
const STOP_GRACE_LIMIT_SECONDS: i64 = 7 * 24 * 3600;

/// The longest argument list, in bytes with its terminators and pointers. Linux grants a program 128 KiB for its arguments and its
/// environment together, whatever else limits them (execve(2)); the rest of that is for the environment.
const ARGUMENTS_LIMIT: usize = 96 * 1024;

/// The longest environment that a config may add; what remains is for the variables of the agent itself.
const ENV_LIMIT: usize = 24 * 1024;

/// As much of a file as Linux reads to find the interpreter of a script.
const SCRIPT_HEAD: u64 = 256;

/// A program, by the driver that runs it.
#[derive(Debug, Clone)]
pub enum Program {
    /// An executable file of this box.
    Process(ProcessProgram),
    /// A simulated machine.
    Simulated(SimulatedProgram),
}

/// A program of the `process` driver.
#[derive(Debug, Clone)]
pub struct ProcessProgram {
    command: Vec<Template>,
    params: BTreeMap<String, Param>,
    /// The time from the request to stop until the program is killed, for a stop at a safe point.
    pub stop_grace: Duration,
    /// Variables that are added to the program's environment.
    pub env: BTreeMap<String, String>,
}

/// A program of the `simulated` driver.
#[derive(Debug, Clone, PartialEq)]
pub struct SimulatedProgram {
    /// A power cut ends the work without a trace.
    pub forget_on_boot: bool,
    /// The machine answers no probe.
    pub silent: bool,
    /// How many times faster than the order says it works.
    pub speed: f64,
}

/// One element of the argument list, cut at its placeholders.
type Template = Vec<Piece>;

#[derive(Debug, Clone, PartialEq, Eq)]
enum Piece {
    Text(String),
    Param(String),
}

impl ProcessProgram {
    /// The file that is executed.
    pub fn executable(&self) -> &Path {
        match self.command.first().map(Vec::as_slice) {
            Some([Piece::Text(path)]) => Path::new(path),
            _ => unreachable!("a command begins with a full path without placeholders"),
        }
    }

    /// The file, if it can be executed; what is wrong with it otherwise.
    ///
    /// # Errors
    /// It is not there, not a file, or may not be executed; or it is a script, and that is so of its interpreter.
    pub fn check_executable(&self) -> Result<&Path, String> {
        let path = self.executable();
        check_file(path)?;
        if let Some(interpreter) = interpreter(path) {
            check_file(&interpreter).map_err(|why| format!("{}: its interpreter {why}", path.display()))?;
        }
        Ok(path)
    }

    /// The argument list for these parameters, with defaults for those that are left out.
    ///
    /// # Errors
    /// A parameter is unknown, missing or has a value that is not allowed, or all of them are too long together.
    pub fn arguments(&self, params: &BTreeMap<String, String>) -> Result<Vec<String>, ParamError> {
        if let Some(name) = params.keys().find(|name| !self.params.contains_key(*name)) {
            return Err(ParamError::unknown(name, self.params.keys()));
        }
        let mut values = BTreeMap::new();
        for (name, param) in &self.params {
            values.insert(name.as_str(), param.value(name, params.get(name))?);
        }
        let argument = |template: &Template| {
            let pieces = template.iter().map(|piece| match piece {
                Piece::Text(text) => text.as_str(),
                Piece::Param(name) => values[name.as_str()],
            });
            pieces.collect()
        };
        let arguments: Vec<String> = self.command.iter().map(argument).collect();
        match length_of(arguments.iter().map(String::len)) {
            length if length > ARGUMENTS_LIMIT => Err(ParamError::TooLong { length, limit: ARGUMENTS_LIMIT }),
            _ => Ok(arguments),
        }
    }
}

/// What texts of these lengths take up where a program is executed: each with its terminator and a pointer to it.
fn length_of(texts: impl Iterator<Item = usize>) -> usize {
    texts.map(|length| length.saturating_add(1 + size_of::<usize>())).fold(0, usize::saturating_add)
}

fn check_file(path: &Path) -> Result<(), String> {
    let shown = path.display();
    match access(path, Access::EXEC_OK) {
        Ok(()) if path.is_file() => Ok(()),
        Ok(()) => Err(format!("{shown}: not a file")),
        Err(error) => Err(format!("{shown}: can't be executed: {error}")),
    }
}

/// The full path of a script's interpreter. One that can't be read can't be executed as a script either.
fn interpreter(path: &Path) -> Option<PathBuf> {
    let mut head = Vec::new();
    File::open(path).ok()?.take(SCRIPT_HEAD).read_to_end(&mut head).ok()?;
    let line = head.strip_prefix(b"#!")?.split(|byte| *byte == b'\n').next()?;
    let is_blank = |byte: &u8| matches!(byte, b' ' | b'\t');
    let name = line.split(is_blank).find(|word| !word.is_empty())?;
    Some(PathBuf::from(OsStr::from_bytes(name))).filter(|path| path.is_absolute())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawProgram {
    driver: RawDriver,
    command: Option<Vec<String>>,
    params: Option<BTreeMap<String, RawParam>>,
    stop_grace_seconds: Option<i64>,
    env: Option<BTreeMap<String, String>>,
    forget_on_boot: Option<bool>,
    probe: Option<RawProbe>,
    speed: Option<f64>,
}

#[derive(Deserialize, Clone, Copy)]
#[serde(rename_all = "lowercase")]
enum RawDriver {
    Process,
    Simulated,
}

#[derive(Deserialize, Clone, Copy, PartialEq)]
#[serde(rename_all = "lowercase")]
enum RawProbe {
    Answers,
    Silent,
}

impl RawProgram {
    /// `key` is the table's, for messages.
    pub(super) fn check(self, key: &str) -> Result<Program, Wrong> {
        match self.driver {
            RawDriver::Process => {
                let of_simulated = [
                    ("forget_on_boot", self.forget_on_boot.is_some()),
                    ("probe", self.probe.is_some()),
                    ("speed", self.speed.is_some()),
                ];
                refuse_foreign(key, &of_simulated, "process", "command, params, stop_grace_seconds, env")?;
                self.check_process(key).map(Program::Process)
            }
            RawDriver::Simulated => {
                let of_process = [
                    ("command", self.command.is_some()),
                    ("params", self.params.is_some()),
                    ("stop_grace_seconds", self.stop_grace_seconds.is_some()),
                    ("env", self.env.is_some()),
                ];
                refuse_foreign(key, &of_process, "simulated", "forget_on_boot, probe, speed")?;
                self.check_simulated(key).map(Program::Simulated)
            }
        }
    }

    fn check_simulated(self, key: &str) -> Result<SimulatedProgram, Wrong> {
        let speed = self.speed.unwrap_or(1.0);
        if !(speed.is_finite() && (0.001..=1_000_000.0).contains(&speed)) {
            return Err(Wrong::new(
                format_args!("{key}.speed"),
                format_args!("{speed}; allowed are 0.001 to 1000000"),
            ));
        }
        let forget_on_boot = self.forget_on_boot.unwrap_or(false);
        Ok(SimulatedProgram { forget_on_boot, silent: self.probe == Some(RawProbe::Silent), speed })
    }

    fn check_process(self, key: &str) -> Result<ProcessProgram, Wrong> {
        let command_key = format!("{key}.command");
        let command = check_command(&command_key, self.command)?;
        let mut params = BTreeMap::new();
        for (name, raw) in self.params.unwrap_or_default() {
            let param_key = format!("{key}.params.{name}");
            check_name(&param_key, &name)?;
            params.insert(name, Param::check(&param_key, raw)?);
        }
        let used: BTreeSet<&str> = command
            .iter()
            .flatten()
            .filter_map(|piece| match piece {
                Piece::Param(name) => Some(name.as_str()),
                Piece::Text(_) => None,
            })
            .collect();
        if let Some(name) = used.iter().find(|name| !params.contains_key(**name)) {
            return Err(Wrong::new(
                command_key,
                format_args!(
                    "{{{name}}} is not declared; add [{key}.params] {name} = {{ pattern = \"...\" }}, or write {{{{ \
                     for a brace"
                ),
            ));
        }
        if let Some(name) = params.keys().find(|name| !used.contains(name.as_str())) {
            return Err(Wrong::new(
                format_args!("{key}.params.{name}"),
                format_args!("never used; put {{{name}}} into {key}.command or remove it"),
            ));
        }
        let grace_key = format_args!("{key}.stop_grace_seconds");
        let grace = whole(grace_key, self.stop_grace_seconds, 30, 0..=STOP_GRACE_LIMIT_SECONDS)?;
        let env = check_env(key, self.env.unwrap_or_default())?;
        Ok(ProcessProgram { command, params, stop_grace: Duration::from_secs(grace), env })
    }
}

/// Refuses the settings of another driver.
fn refuse_foreign(key: &str, present: &[(&str, bool)], driver: &str, allowed: &str) -> Result<(), Wrong> {
    match present.iter().find(|(_, is_present)| *is_present) {
        Some((name, _)) => Err(Wrong::new(
            format_args!("{key}.{name}"),
            format_args!("not for driver = \"{driver}\"; allowed are driver, {allowed}"),
        )),
        None => Ok(()),
    }
}

fn check_command(key: &str, command: Option<Vec<String>>) -> Result<Vec<Template>, Wrong> {
    let example = "for example command = [\"/usr/local/bin/mill\", \"{file}\"]";
    let Some(command) = command.filter(|command| !command.is_empty()) else {
        return Err(Wrong::new(key, format_args!("missing or empty; {example}")));
    };
    if !Path::new(&command[0]).is_absolute() || command[0].contains(['{', '}']) {
        return Err(Wrong::new(
            key,
            format_args!("{:?} must be the program's full path, without placeholders; {example}", command[0]),
        ));
    }
    let templates = command.iter().map(|text| parse_template(text));
    templates.collect::<Result<_, _>>().map_err(|why| Wrong::new(key, why))
}

/// `{name}` is a placeholder, `{{` and `}}` are braces.
fn parse_template(text: &str) -> Result<Template, String> {
    if text.contains('\0') {
        return Err("an argument can't contain NUL".into());
    }
    let mut pieces = Vec::new();
    let mut plain = String::new();
    let mut rest = text;
    while let Some(at) = rest.find(['{', '}']) {
        plain.push_str(&rest[..at]);
        let brace = &rest[at..=at];
        let after = &rest[at + 1..];
        if let Some(after) = after.strip_prefix(brace) {
            plain.push_str(brace);
            rest = after;
            continue;
        }
        let Some((name, after)) = after.split_once('}').filter(|_| brace == "{") else {
            return Err(format!(
                "{text:?} has a lone {brace}; write {{name}} for a parameter, {{{{ or }}}} for a brace"
            ));
        };
        if !plain.is_empty() {
            pieces.push(Piece::Text(std::mem::take(&mut plain)));
        }
        pieces.push(Piece::Param(name.to_owned()));
        rest = after;
    }
    plain.push_str(rest);
    if !plain.is_empty() || pieces.is_empty() {
        pieces.push(Piece::Text(plain));
    }
    Ok(pieces)
}

fn check_env(key: &str, env: BTreeMap<String, String>) -> Result<BTreeMap<String, String>, Wrong> {
    for (name, value) in &env {
        let is_name =
            !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
        if !is_name || name.starts_with("RELOOP_") || value.contains('\0') {
            return Err(Wrong::new(
                format_args!("{key}.env.{name}"),
                "allowed are names of A-Z a-z 0-9 _ that do not begin with RELOOP_, and values without NUL",
            ));
        }
    }
    let length = length_of(env.iter().map(|(name, value)| name.len() + 1 + value.len()));
    if length > ENV_LIMIT {
        return Err(Wrong::new(
            format_args!("{key}.env"),
            format_args!("{length} bytes long in all; at most {ENV_LIMIT}"),
        ));
    }
    Ok(env)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use reloop_node::config::parse;

    use super::super::params::PARAM_LIMIT;
    use super::*;

    fn mill(command: &str, params: &str) -> Result<ProcessProgram, String> {
        let text = format!("driver = \"process\"\ncommand = {command}\n[params]\n{params}\n");
        let file = Path::new("slave.toml");
        let raw: RawProgram = parse(&text, file).map_err(|error| error.to_string())?;
        let checked = raw.check("programs.mill");
        match checked.map_err(|wrong| wrong.from_origin(file.display(), "flags").to_string())? {
            Program::Process(program) => Ok(program),
            other => panic!("{other:?}"),
        }
    }

    fn values(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect()
    }

    #[test]
    fn a_command_must_be_whole() {
        for (command, params, expected) in [
            ("[]", "", "programs.mill.command"),
            (r#"["mill"]"#, "", "full path"),
            (r#"["/bin/{p}"]"#, "p = { pattern = \"a\" }", "full path"),
            (r#"["/bin/mill", "{file}"]"#, "", "{file} is not declared"),
            (r#"["/bin/mill", "{file"]"#, "", "lone {"),
            (r#"["/bin/mill", "file}"]"#, "", "lone }"),
            (r#"["/bin/mill"]"#, "p = { pattern = \"a\" }", "never used"),
            (r#"["/bin/mill", "{p}"]"#, "p = { pattern = \"(\" }", "programs.mill.params.p.pattern"),
            (r#"["/bin/mill", "{p}"]"#, "p = { pattern = \"a)|(?:b\" }", "regular expression"),
            (
                r#"["/bin/mill", "{p}"]"#,
                "p = { pattern = \"a\", default = \"b\" }",
                "programs.mill.params.p.default",
            ),
            (r#"["/bin/mill", "{p}"]"#, "p = { pattern = \"a\" }\np = { pattern = \"b\" }", "duplicate key"),
            (r#"["/bin/mill", "{p}"]"#, "p = { pattern = \"a\", kind = \"b\" }", "kind"),
        ] {
            let error = mill(command, params).expect_err(command);
            assert!(error.contains(expected), "{expected:?} is not in {error:?}");
        }
    }

    #[test]
    fn arguments_that_are_too_long_to_be_executed_are_refused_with_their_length() {
        let text = |count: usize| {
            let program =
                mill(&format!(r#"["/bin/mill", "{}"]"#, "{p}".repeat(count)), "p = { pattern = \"a*\" }");
            program.unwrap().arguments(&values(&[("p", &"a".repeat(PARAM_LIMIT))]))
        };
        assert_eq!(text(23).map(|arguments| arguments[1].len()), Ok(23 * PARAM_LIMIT));
        let long = text(24).unwrap_err();
        let length = 24 * PARAM_LIMIT + "/bin/mill".len() + 2 * (1 + size_of::<usize>());
        assert_eq!(long, ParamError::TooLong { length, limit: ARGUMENTS_LIMIT });
        let env = format!(
            "driver = \"process\"\ncommand = [\"/bin/mill\"]\nenv = {{ A = \"{}\" }}",
            "a".repeat(ENV_LIMIT)
        );
        let raw: RawProgram = parse(&env, Path::new("slave.toml")).unwrap();
        let wrong = raw.check("programs.mill").unwrap_err().from_origin("slave.toml", "flags").to_string();
        assert!(wrong.contains("programs.mill.env") && wrong.contains("at most 24576"), "{wrong}");
    }

    #[test]
    fn a_script_can_be_executed_if_its_interpreter_can() {
        let dir = tempfile::tempdir().unwrap();
        let script = dir.path().join("script");
        let program = mill(&format!("[{script:?}]"), "").unwrap();
        let says = |head: &str| {
            std::fs::write(&script, head).unwrap();
            std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o700)).unwrap();
            program.check_executable().map(drop)
        };
        for good in ["#!/bin/sh\n", "#! /bin/sh -e\n", "#!/bin/sh", "#!sh\n", "\x7fELF", ""] {
            assert_eq!(says(good), Ok(()), "{good:?}");
        }
        let foreign = says("#!/bin/sh\r\ntrue\r\n").unwrap_err();
        assert!(foreign.contains("its interpreter /bin/sh\r: can't be executed"), "{foreign:?}");
        let missing = says("#! /nowhere/sh -e\ntrue\n").unwrap_err();
        let expected = format!("{}: its interpreter /nowhere/sh: can't be executed", script.display());
        assert!(missing.starts_with(&expected), "{missing}");
    }

    #[test]
    fn a_value_is_matched_from_end_to_end() {
        let program =
            mill(r#"["/bin/mill", "--file={file}", "{{}}"]"#, r#"file = { pattern = "[a-z]+|[0-9]+" }"#)
                .unwrap();
        let arguments = |value: &str| program.arguments(&values(&[("file", value)]));
        assert_eq!(arguments("part").unwrap(), ["/bin/mill", "--file=part", "{}"]);
        assert_eq!(arguments("77").unwrap()[1], "--file=77");
        for value in
            ["", "part;7", "a7", "7a", "part\n", "\npart", "../part", "$(part)", "-part", "part 7", "a\0"]
        {
            assert!(arguments(value).is_err(), "{value:?} was let through");
        }
        assert!(program.arguments(&values(&[])).is_err());
        assert!(program.arguments(&values(&[("file", "a"), ("other", "b")])).is_err());
        assert!(arguments(&"a".repeat(PARAM_LIMIT)).is_ok());
        assert!(arguments(&"a".repeat(PARAM_LIMIT + 1)).is_err());
    }
}
