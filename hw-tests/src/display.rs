//! A screen and a keyboard: an X server of the story's own, which lets nobody in without its key.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use crate::{Run, User, wait_until};

/// An X server (Xvfb) whose key is in a file of a user's.
#[derive(Debug)]
pub struct Display<'a> {
    user: &'a User,
    server: Child,
    /// `:NUMBER`.
    name: String,
    authority: PathBuf,
}

/// What is shown on a display.
#[derive(Debug)]
pub struct Window<'a> {
    display: &'a Display<'a>,
    id: String,
}

impl<'a> Display<'a> {
    /// Starts one.
    pub fn new(user: &'a User) -> Self {
        let authority = user.write("display-key", authority(&cookie()));
        // Its lock and socket lie in /tmp, which is the machine's; by its abstract socket it is found
        // all the same, in this story only.
        let server = "mount -t tmpfs none /tmp && exec Xvfb -displayfd 1 -screen 0 800x600x24 -nolisten tcp -noreset -auth \"$0\"";
        let mut server = Command::new("unshare")
            .args(["--mount", "sh", "-c", server])
            .arg(&authority)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("util-linux is installed");
        let mut number = String::new();
        let mut said = BufReader::new(server.stdout.take().expect("piped above"));
        // Told when it serves.
        said.read_line(&mut number).expect("it says text");
        assert!(!number.is_empty(), "Xvfb did not start");
        let name = format!(":{}", number.trim());
        Self {
            user,
            server,
            name,
            authority,
        }
    }

    /// Has a program find this display, as in a session on it.
    pub fn on(&self, run: Run) -> Run {
        run.env("DISPLAY", &self.name)
            .env("XAUTHORITY", &self.authority.to_string_lossy())
    }

    /// Waits for a window of that title.
    #[track_caller]
    pub fn shows(&self, title: &str) -> Window<'_> {
        let mut found = String::new();
        wait_until(&format!("a window '{title}' is shown"), || {
            found = self.windows(title);
            !found.is_empty()
        });
        let id = found.trim().to_owned();
        assert!(!id.contains('\n'), "several windows '{title}'");
        Window { display: self, id }
    }

    /// The visible windows of that title, an id a line.
    fn windows(&self, title: &str) -> String {
        let title = format!("^{title}$");
        // Exits with 1 if there is none.
        let search = ["search", "--onlyvisible", "--name", &title];
        self.xdotool(&search).finish().stdout
    }

    fn xdotool(&self, args: &[&str]) -> Run {
        self.on(self.user.run("xdotool", args))
    }
}

impl Window<'_> {
    /// Types `text`, and Enter.
    pub fn types(&self, text: &str) {
        self.focus();
        // By standard input: arguments are seen by everybody.
        let run = self.display.xdotool(&["type", "--file", "-"]);
        run.input(text).ok();
        self.presses("Return");
    }

    /// Presses a key, by its name in X.
    pub fn presses(&self, key: &str) {
        self.focus();
        self.display.xdotool(&["key", key]).ok();
    }

    /// Waits until it is shown no more.
    pub fn goes(&self) {
        wait_until("the window has gone", || {
            let name = self.display.xdotool(&["getwindowname", &self.id]);
            name.finish().code != 0
        });
    }

    /// No window manager does that here.
    fn focus(&self) {
        let focus = ["windowfocus", "--sync", &self.id];
        self.display.xdotool(&focus).ok();
    }
}

impl Drop for Display<'_> {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

fn cookie() -> [u8; 16] {
    let mut cookie = [0; 16];
    let mut random = File::open("/dev/urandom").expect("it is there");
    random.read_exact(&mut cookie).expect("it never ends");
    cookie
}

/// A file of one key to every display of this machine, as xauth(1) writes it: lengths and the family in 16
/// bits, big-endian; address and number empty.
fn authority(cookie: &[u8; 16]) -> Vec<u8> {
    const FAMILY_WILD: u16 = 0xffff;
    const NAME: &[u8] = b"MIT-MAGIC-COOKIE-1";
    let mut file = FAMILY_WILD.to_be_bytes().to_vec();
    for field in [&[][..], &[], NAME, cookie] {
        let length = u16::try_from(field.len()).expect("each is short");
        file.extend(length.to_be_bytes());
        file.extend(field);
    }
    file
}
