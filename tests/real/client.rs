//! The real Claude Code and a sandbox for it: a home and a project in a temporary folder, a mock, and an
//! environment with nothing from outside. The API key is made up; the mock is the API, and the proxy for every
//! other host. Dropping a sandbox kills the processes that are left in it.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard, mpsc};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use super::mock::{DEADLINE, Mock};
use super::run::Run;
use super::script::Part;

/// The options of every run.
const OPTIONS: [&str; 4] = ["--dangerously-skip-permissions", "--output-format", "stream-json", "--verbose"];

/// Tests of the client run side by side, except those that need a client that is not short of processor time.
static TURNS: RwLock<()> = RwLock::new(());

/// A test's turn.
enum Turn {
    Beside { _others: RwLockReadGuard<'static, ()> },
    Alone { _others: RwLockWriteGuard<'static, ()> },
}

/// Claude Code, with or without partial messages.
pub struct Client {
    program: PathBuf,
    partial: bool,
    _turn: Turn,
}

impl Client {
    /// The client that `BUDGET_TEE_TEST_CLAUDE` names, which must be there. Without that variable the test is
    /// skipped: `cargo test` alone should not run a program that was downloaded.
    pub fn find(test: &str, partial: bool) -> Option<Client> {
        let Some(program) = std::env::var_os("BUDGET_TEE_TEST_CLAUDE").filter(|name| !name.is_empty()) else {
            crate::harness::skip("BUDGET_TEE_TEST_CLAUDE names no Claude Code; see tests/real/install");
            return None;
        };
        let program = PathBuf::from(program);
        assert!(program.is_file(), "BUDGET_TEE_TEST_CLAUDE: no file {}", program.display());
        // INT is sent at a quiet moment, and a client that waits for the processor only seems to be quiet.
        let turn = match test.contains("wrapper_interrupts") {
            true => Turn::Alone { _others: TURNS.write().unwrap_or_else(PoisonError::into_inner) },
            false => Turn::Beside { _others: TURNS.read().unwrap_or_else(PoisonError::into_inner) },
        };
        Some(Client { program, partial, _turn: turn })
    }

    pub fn sandbox<const N: usize>(&self, script: [Part; N]) -> Sandbox<'_> {
        Sandbox::new(self, script.into())
    }
}

/// A home, a project and a mock for one client at a time.
pub struct Sandbox<'a> {
    client: &'a Client,
    folder: tempfile::TempDir,
    pub mock: Mock,
}

impl<'a> Sandbox<'a> {
    fn new(client: &'a Client, script: Vec<Part>) -> Sandbox<'a> {
        let sandbox = Sandbox { client, folder: tempfile::tempdir().expect("a folder"), mock: Mock::start(script) };
        let project = sandbox.path("project");
        std::fs::create_dir_all(project.join(".claude")).expect("a project");
        std::fs::write(project.join("a.txt"), "one\ntwo\n").expect("a file");
        // Skips the dialogs of a first start.
        let projects = json!({project.to_str().expect("UTF-8"): {"hasTrustDialogAccepted": true}});
        let settings = json!({"hasCompletedOnboarding": true, "projects": projects});
        std::fs::write(sandbox.path(".claude.json"), settings.to_string()).expect("settings");
        sandbox
    }

    /// A file or folder of the sandbox.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The same as an argument of a command.
    pub fn argument(&self, name: &str) -> String {
        self.path(name).to_str().expect("UTF-8").to_owned()
    }

    /// The project's settings of Claude Code.
    pub fn write_settings(&self, settings: &Value) {
        std::fs::write(self.path("project/.claude/settings.json"), settings.to_string()).expect("settings");
    }

    /// The command line of the client with these arguments.
    pub fn claude(&self, args: &[&str]) -> Vec<String> {
        let mut words = vec![self.client.program.to_str().expect("UTF-8").to_owned()];
        words.extend(args.iter().chain(&OPTIONS).map(|word| (*word).to_owned()));
        if self.client.partial {
            words.push("--include-partial-messages".to_owned());
        }
        words
    }

    /// Starts budget-tee around the client.
    pub fn wrap(&self, options: &[&str], args: &[&str]) -> Run {
        Run::start(self, &self.wrapped(options, args), Stdio::null())
    }

    /// Starts budget-tee around a client that takes its prompts from stdin, see [`Run::say`].
    pub fn chat(&self) -> Run {
        Run::start(self, &self.wrapped(&[], &["-p", "--input-format", "stream-json"]), Stdio::piped())
    }

    fn wrapped(&self, options: &[&str], args: &[&str]) -> Vec<String> {
        [self.budget_tee(options), vec!["--".to_owned()], self.claude(args)].concat()
    }

    /// Starts `claude ARGS | budget-tee OPTIONS` in bash. Their exit codes are in `Ended::pipe_status`.
    pub fn pipe(&self, options: &[&str], args: &[&str]) -> Run {
        let pipe = format!("{} | {}", quoted(&self.claude(args)), quoted(&self.budget_tee(options)));
        let script = format!("{pipe}; echo ${{PIPESTATUS[@]}} >{}", super::run::PIPE_STATUS);
        Run::start(self, &["bash".to_owned(), "-c".to_owned(), script], Stdio::null())
    }

    fn budget_tee(&self, options: &[&str]) -> Vec<String> {
        let words = [env!("CARGO_BIN_EXE_budget-tee"), "-q", "--summary", super::run::SUMMARY];
        words.iter().chain(options).map(|word| (*word).to_owned()).collect()
    }

    /// A command in the project, in a session of its own, with the sandbox's environment.
    pub fn command(&self, words: &[String]) -> Command {
        let mut command = Command::new("setsid");
        let mock = format!("http://127.0.0.1:{}", self.mock.port);
        command.args(words).current_dir(self.path("project")).env_clear().envs([
            ("PATH", "/usr/local/bin:/usr/bin:/bin"),
            ("LANG", "C.UTF-8"),
            ("HOME", self.folder.path().to_str().expect("UTF-8")),
            ("ANTHROPIC_API_KEY", "sk-ant-made-up"),
            ("ANTHROPIC_BASE_URL", &mock),
            ("HTTP_PROXY", &mock),
            ("HTTPS_PROXY", &mock),
            ("NO_PROXY", "127.0.0.1"),
            // Lets root use --dangerously-skip-permissions.
            ("IS_SANDBOX", "1"),
            ("CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC", "1"),
            ("DISABLE_AUTOUPDATER", "1"),
            ("DISABLE_ERROR_REPORTING", "1"),
            ("DISABLE_TELEMETRY", "1"),
        ]);
        command
    }

    /// Makes a named pipe in the project. The receiver gets a message when a tool opens it with `: >NAME`.
    pub fn fifo(&self, name: &str) -> mpsc::Receiver<()> {
        let path = self.path("project").join(name);
        rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, 0o600.into(), 0).expect("a pipe");
        let (sender, receiver) = mpsc::channel();
        std::thread::spawn(move || std::fs::File::open(path).map(|_| sender.send(())));
        receiver
    }

    /// The processes of this sandbox with their command lines, found by HOME in their environment. Zombies are
    /// not among them: they have no environment.
    pub fn alive(&self) -> Vec<(i32, String)> {
        let home = format!("HOME={}\0", self.folder.path().display());
        let processes = std::fs::read_dir("/proc").expect("/proc").flatten();
        let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        pids.filter_map(|pid: i32| {
            let file = |name| std::fs::read(format!("/proc/{pid}/{name}")).ok();
            let environment = file("environ")?;
            memchr::memmem::find(&environment, home.as_bytes())?;
            Some((pid, String::from_utf8_lossy(&file("cmdline")?).replace('\0', " ")))
        })
        .collect()
    }
}

impl Drop for Sandbox<'_> {
    fn drop(&mut self) {
        // Again until none is left: a process may fork before it is killed.
        let began = std::time::Instant::now();
        loop {
            let alive = self.alive();
            if alive.is_empty() || began.elapsed() > DEADLINE {
                return;
            }
            for (pid, _) in alive {
                let _ = Pid::from_raw(pid).map(|pid| kill_process(pid, Signal::KILL));
            }
        }
    }
}

/// The words as a shell takes them literally.
fn quoted(words: &[String]) -> String {
    let quoted: Vec<_> = words.iter().map(|word| format!("'{}'", word.replace('\'', r"'\''"))).collect();
    quoted.join(" ")
}
