//! What every verb shares: the realm folder, the output form, the way to the agent. No choices.

use std::cell::RefCell;
use std::path::PathBuf;
use std::process::ExitCode;

use realm_model::entry::NamespaceName;
use realm_model::key::SecretKey;
use realm_node::{Client, Goodbye, Identity};
use realm_store::folder::{FolderError, Places, RealmFolder, discover};
use tokio::sync::OnceCell;

use crate::failure::Failure;
use crate::sign::Standing;
use crate::signals::Signals;
use crate::{files, owner, reach};

/// The global part of the command line, as meant.
pub(crate) struct Context {
    realm: Option<PathBuf>,
    json: bool,
    node: Option<String>,
    key_file: Option<PathBuf>,
    // A passphrase is asked for once.
    key: OnceCell<SecretKey>,
    /// Nodes that were called over the network of nodes.
    called: RefCell<Vec<Goodbye>>,
}

impl Context {
    pub(crate) fn new(
        realm: Option<PathBuf>,
        json: bool,
        node: Option<String>,
        key_file: Option<PathBuf>,
    ) -> Self {
        Self {
            realm,
            json,
            node,
            key_file,
            key: OnceCell::new(),
            called: RefCell::default(),
        }
    }

    /// Whether stdout carries JSON.
    pub(crate) const fn json(&self) -> bool {
        self.json
    }

    /// The realm folder that was asked for, whether it exists or not; `None`: none was named.
    pub(crate) fn named_folder(&self) -> Option<&PathBuf> {
        self.realm.as_ref()
    }

    /// The realm folder of this command.
    pub(crate) fn folder(&self) -> Result<RealmFolder, Failure> {
        self.find_folder()?.ok_or_else(|| match &self.realm {
            Some(folder) => Failure::new(
                "no-realm",
                format!("`{}` is no realm folder", folder.display()),
            )
            .hint(format!(
                "`realm --realm {} init` makes one; look at `--realm` and REALM_DIR",
                folder.display()
            )),
            None => Failure::new(
                "no-realm",
                "there is no `.realm` folder here or in a parent folder",
            )
            .hint("`realm up` makes one and runs what realm.toml says, `realm init` makes one alone; `--realm DIR` names one elsewhere; from a machine that is no node: `--node TICKET --key FILE`"),
        })
    }

    /// The realm folder of this command, if there is one.
    pub(crate) fn find_folder(&self) -> Result<Option<RealmFolder>, Failure> {
        let here = std::env::current_dir()?;
        let data_home = data_home();
        let place = discover(&Places {
            // clap reads REALM_DIR into the same argument.
            explicit: self.realm.as_deref(),
            environment: None,
            here: &here,
            data_home: data_home.as_deref(),
            user: rustix::process::getuid().as_raw(),
        });
        match RealmFolder::open(place) {
            Ok(folder) => Ok(Some(folder)),
            Err(FolderError::Missing { .. }) => Ok(None),
            Err(error) => Err(Failure::from_error("bad-realm-folder", &error)),
        }
    }

    /// A client of the agent of this realm folder.
    pub(crate) fn local_client(&self) -> Result<Client, Failure> {
        Ok(Client::new(&self.folder()?.socket()))
    }

    /// A client of the node that was named, else of the agent of this realm folder.
    pub(crate) async fn client(&self) -> Result<Client, Failure> {
        match &self.node {
            Some(node) => reach::client(self, node).await,
            None => self.local_client(),
        }
    }

    /// The node that was named.
    pub(crate) fn node(&self) -> Option<&str> {
        self.node.as_deref()
    }

    /// Who this realm and this node are.
    pub(crate) fn identity(&self) -> Result<Identity, Failure> {
        Identity::load(&self.folder()?).map_err(|error| {
            Failure::from_error("bad-realm-folder", &error)
                .hint("restore the folder from a copy, or make a new realm with `realm init`")
        })
    }

    /// The key to act with, by default the owner's; asks for its passphrase if it has one.
    pub(crate) async fn owner_key(&self) -> Result<SecretKey, Failure> {
        let load = async || match &self.key_file {
            Some(file) => owner::load(file).await,
            None => {
                let folder = self.folder()?;
                // Who can put files there could have planted the key.
                folder.check_safe().map_err(|error| {
                    let hint = "`chown` the folder to the user who signs, and `chmod go-w` it";
                    files::failure(&error).hint(hint)
                })?;
                owner::load(&folder.owner_key()).await
            }
        };
        self.key.get_or_try_init(load).await.cloned()
    }

    /// Where a namespace stands: by the agent, or by its log if no agent runs.
    pub(crate) async fn standing(&self, namespace: NamespaceName) -> Result<Standing, Failure> {
        let heads = match self.client().await?.heads_of(namespace).await {
            Err(realm_node::ClientError::NotRunning { .. }) => {
                realm_node::offline_heads(&self.folder()?, Some(namespace))
                    .map_err(|error| Failure::from_error("bad-realm-folder", &error))?
            }
            answer => answer?,
        };
        Standing::of(heads, namespace)
    }

    /// The file of the key to act with.
    pub(crate) fn key_path(&self) -> Result<PathBuf, Failure> {
        match &self.key_file {
            Some(file) => Ok(file.clone()),
            None => Ok(self.folder()?.owner_key()),
        }
    }

    /// Runs a verb on a small runtime of its own; a signal ends it as interrupted.
    pub(crate) fn block_on<T>(
        &self,
        verb: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, Failure> {
        self.until_signal(verb)?.ok_or_else(Failure::interrupted)
    }

    /// Runs a verb that shows things for as long as a person looks: a signal is its ordinary end.
    pub(crate) fn watch(
        &self,
        verb: impl Future<Output = Result<ExitCode, Failure>>,
    ) -> Result<ExitCode, Failure> {
        Ok(self.until_signal(verb)?.unwrap_or(ExitCode::SUCCESS))
    }

    /// Runs a verb to its end on a small runtime; signals are the verb's.
    pub(crate) fn on_small_runtime<T>(
        &self,
        verb: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, Failure> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let ended = runtime.block_on(async {
            let ended = verb.await;
            self.hang_up().await;
            ended
        });
        // Standard input or a prompt that nobody ends still blocks a thread.
        runtime.shutdown_background();
        ended
    }

    /// Runs `verb` to its end, or until SIGINT or SIGTERM: then it gives nothing.
    fn until_signal<T>(
        &self,
        verb: impl Future<Output = Result<T, Failure>>,
    ) -> Result<Option<T>, Failure> {
        self.on_small_runtime(async {
            let mut signals = Signals::catch()?;
            tokio::select! {
                biased;
                done = verb => done.map(Some),
                () = signals.next() => Ok(None),
            }
        })
    }

    /// Notes a node that is called, to say goodbye to it when the verb has ended.
    pub(crate) fn calls(&self, goodbye: Goodbye) {
        self.called.borrow_mut().push(goodbye);
    }

    async fn hang_up(&self) {
        let called = self.called.take();
        futures_util::future::join_all(called.into_iter().map(Goodbye::say)).await;
    }
}

/// Where a user's realm is kept when it is not in a project: `$XDG_DATA_HOME/realm`.
pub(crate) fn user_place() -> Option<PathBuf> {
    data_home().map(|data| data.join("realm"))
}

fn data_home() -> Option<PathBuf> {
    let absolute = |name| {
        std::env::var_os(name)
            .map(PathBuf::from)
            .filter(|path| path.is_absolute())
    };
    absolute("XDG_DATA_HOME").or_else(|| absolute("HOME").map(|home| home.join(".local/share")))
}
