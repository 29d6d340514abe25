//! A file that a client has sent becomes a batch, or is refused with the reason.

use tokio::sync::{mpsc, oneshot};

use super::dropped::{Said, hex, said, source_of};
use super::intake::{Intake, IntakeError, blocking};
use crate::formats::BatchOptions;
use crate::spool::{Claimed, SpoolError};
use crate::store::{Batch, StoreError};
use crate::telemetry::chain;

/// A received file that asks to become a batch.
#[derive(Debug)]
pub struct Submission {
    /// What the client calls it: its suffix says what is in it.
    pub file_name: String,
    /// What the client asks for; the file's own first line goes before it.
    pub options: BatchOptions,
    /// What was received.
    pub received: Claimed,
    /// Who is told what it came to.
    pub reply: oneshot::Sender<Submitted>,
}

/// What a submission came to. Unless it is a new batch, nothing of it is left.
#[derive(Debug)]
pub enum Submitted {
    /// A new batch, durable. Its import is yet to come.
    Entered(Box<Batch>),
    /// The batch that it has become before.
    Known(Box<Batch>),
    /// Another file is the batch of its id.
    Taken(String),
    /// It cannot be had, and why.
    Refused(String),
    /// No space is left, in words.
    Full(String),
    /// Something failed that may come right.
    Failed(String),
}

impl Intake {
    /// Enters what clients submit, one file after the other, without waiting for any import.
    pub(super) async fn take_submissions(&self, mut submissions: mpsc::Receiver<Submission>) {
        while let Some(submission) = submissions.recv().await {
            let Submission { file_name, options, received, reply } = submission;
            let submitted = match self.submit(&file_name, options, &received).await {
                Ok(submitted) => submitted,
                Err(error) => failed(&error),
            };
            // A client that left may ask by the id that it gave.
            let _ = reply.send(submitted);
        }
    }

    async fn submit(
        &self,
        file_name: &str,
        given: BatchOptions,
        received: &Claimed,
    ) -> Result<Submitted, IntakeError> {
        let _turn = self.turn.lock().await;
        let submitted = self.enter_or_refuse(file_name, given, received).await;
        match &submitted {
            Ok(Submitted::Entered(_)) => self.entered.notify_one(),
            Ok(
                Submitted::Known(_)
                | Submitted::Taken(_)
                | Submitted::Refused(_)
                | Submitted::Full(_)
                | Submitted::Failed(_),
            ) => {
                let (spool, work) = (self.shell.spool.clone(), received.id.clone());
                blocking(move || spool.remove_working(&work)).await?;
            }
            Err(_) => {
                // It may be entered all the same.
                self.entered.notify_one();
                self.forget_copy(&received.id).await?;
            }
        }
        submitted
    }

    async fn enter_or_refuse(
        &self,
        file_name: &str,
        given: BatchOptions,
        received: &Claimed,
    ) -> Result<Submitted, IntakeError> {
        let reader = self.shell.store.reader();
        let said = match said(&self.shell.spool, file_name, received).await? {
            Ok(said) => Said { options: said.options.merged_over(given), ..said },
            Err(reason) => return Ok(Submitted::Refused(reason)),
        };
        let options = &said.options;
        let source = source_of(received);
        if let Some(id) = options.id
            && let Some(known) = reader.batch_by_uid(&id.to_string()).await?
        {
            let same = known.sha256 == hex(&received.sha256);
            return Ok(if same {
                Submitted::Known(Box::new(known))
            } else {
                Submitted::Taken(id.to_string())
            });
        }
        let is_named = options.id.is_some();
        let plan = match self.plan(said).await? {
            Ok(plan) => plan,
            Err(reason) => return Ok(Submitted::Refused(reason)),
        };
        // Whoever gave it an id asks for a batch of its own.
        if !is_named && let Some((open, _)) = self.same_file(file_name, &source, &plan).await? {
            self.shell.store.drop_again(open).await?;
            return Ok(Submitted::Known(Box::new(reader.batch(open).await?)));
        }
        let batch = self.enter(file_name, received, source, plan).await?;
        Ok(Submitted::Entered(Box::new(batch)))
    }
}

fn failed(error: &IntakeError) -> Submitted {
    let told = chain(error);
    tracing::error!(error = %told, "cannot take in a submitted file");
    match error {
        IntakeError::Store(StoreError::Full) | IntakeError::Spool(SpoolError::NoSpace { .. }) => {
            Submitted::Full(told)
        }
        IntakeError::Store(_) | IntakeError::Spool(_) | IntakeError::Read { .. } => {
            Submitted::Failed(told)
        }
    }
}
