//! What is kept beside reports: the highest serials of delegations, the last snapshots, where this agent reported from, and how
//! it stands.

use rusqlite::{OptionalExtension, Transaction, TransactionBehavior, params};
use tocsin_proto::{
    bounded::{Bytes, Fixed},
    delegation::KeyRole,
    id::ObserverId,
    message::SignedSnapshot,
    sign::PublicKey,
    time::Timestamp,
};

use super::{Spool, SpoolError, of_db, to_db};
use crate::state::State;

const fn role(role: KeyRole) -> i64 {
    match role {
        KeyRole::Transport => 0,
        KeyRole::Feed => 1,
        KeyRole::Checkpoint => 2,
    }
}

impl Spool {
    /// The highest delegation serial seen of an operator; 0 when none was.
    ///
    /// # Errors
    /// When the database fails.
    pub fn serial(&self, operator: &PublicKey, of: KeyRole) -> Result<u64, SpoolError> {
        self.db
            .query_row(
                "SELECT serial FROM serials WHERE operator = ?1 AND role = ?2",
                params![operator.as_bytes().as_slice(), role(of)],
                |row| row.get(0),
            )
            .optional()
            .map(|serial| of_db(serial.unwrap_or(0)))
            .map_err(SpoolError::Access)
    }

    /// Keeps a delegation serial, if it is the highest.
    ///
    /// # Errors
    /// When the database fails.
    pub fn saw_serial(
        &self,
        operator: &PublicKey,
        of: KeyRole,
        serial: u64,
    ) -> Result<(), SpoolError> {
        self.db
            .execute(
                "INSERT INTO serials VALUES (?1, ?2, ?3) ON CONFLICT (operator, role)
                 DO UPDATE SET serial = ?3 WHERE serial < ?3",
                params![operator.as_bytes().as_slice(), role(of), to_db(serial)],
            )
            .map(|_| ())
            .map_err(SpoolError::Access)
    }

    /// Keeps a snapshot of an operator, if none is kept whose sequence is as high: an old one
    /// played back must not hide what came after it.
    ///
    /// # Errors
    /// When the database fails.
    pub fn keep_snapshot(
        &self,
        operator: &PublicKey,
        snapshot: &SignedSnapshot,
        sequence: u64,
        received: Timestamp,
    ) -> Result<(), SpoolError> {
        self.db
            .execute(
                "INSERT INTO snapshots VALUES (?1, ?2, ?3, ?4, ?5) ON CONFLICT (operator)
                 DO UPDATE SET signature = ?2, document = ?3, received = ?4, sequence = ?5
                 WHERE sequence < ?5",
                params![
                    operator.as_bytes().as_slice(),
                    snapshot.signature.0.as_slice(),
                    &snapshot.document[..],
                    to_db(received.as_ms()),
                    to_db(sequence)
                ],
            )
            .map(|_| ())
            .map_err(SpoolError::Access)
    }

    /// The snapshot kept of an operator, and when it came.
    ///
    /// # Errors
    /// When the database fails.
    pub fn snapshot(
        &self,
        operator: &PublicKey,
    ) -> Result<Option<(SignedSnapshot, Timestamp)>, SpoolError> {
        let found = self.db.query_row(
            "SELECT signature, document, received FROM snapshots WHERE operator = ?1",
            [operator.as_bytes().as_slice()],
            |row| {
                let document = Bytes::new(row.get::<_, Vec<u8>>(1)?)
                    .map_err(|_| rusqlite::Error::IntegralValueOutOfRange(1, 0))?;
                let signature = Fixed(row.get::<_, [u8; 64]>(0)?);
                let received = Timestamp::from_ms(of_db(row.get(2)?));
                Ok((SignedSnapshot { signature, document }, received))
            },
        );
        found.optional().map_err(SpoolError::Access)
    }

    /// Notes that reports were sent from a network: `tocsin forget` must know whom to have forgotten. It stays here.
    ///
    /// # Errors
    /// When the database fails.
    pub fn saw_place(&self, operator: &PublicKey, context: &str) -> Result<(), SpoolError> {
        self.db
            .execute(
                "INSERT OR IGNORE INTO places VALUES (?1, ?2)",
                params![operator.as_bytes().as_slice(), context],
            )
            .map(|_| ())
            .map_err(SpoolError::Access)
    }

    /// To whom, and from which networks, reports were sent.
    ///
    /// # Errors
    /// When the database fails.
    pub fn places(&self) -> Result<Vec<(PublicKey, String)>, SpoolError> {
        self.db
            .prepare("SELECT operator, context FROM places")
            .and_then(|mut statement| {
                let rows = statement.query_map([], |row| {
                    Ok((PublicKey::from_bytes(row.get::<_, [u8; 32]>(0)?), row.get(1)?))
                })?;
                rows.collect()
            })
            .map_err(SpoolError::Access)
    }

    /// That observer was forgotten, and its numbers with it.
    ///
    /// # Errors
    /// When the database fails.
    pub fn drop_place(
        &self,
        operator: &PublicKey,
        context: &str,
        observer: &ObserverId,
    ) -> Result<(), SpoolError> {
        self.db
            .execute(
                "DELETE FROM places WHERE operator = ?1 AND context = ?2",
                params![operator.as_bytes().as_slice(), context],
            )
            .and_then(|_| {
                let sql = "DELETE FROM observers WHERE observer = ?1";
                self.db.execute(sql, [observer.as_bytes().as_slice()])
            })
            .map(|_| ())
            .map_err(SpoolError::Access)
    }

    /// Forgets every observer that this agent was, with what waits to be sent as one: nothing that is sent after this has
    /// anything in common with what was sent before. Caps, serials and news stay. Tells how many reports were dropped.
    ///
    /// # Errors
    /// When the database fails: then nothing of it was done.
    pub fn start_afresh(&mut self) -> Result<u64, SpoolError> {
        let forget = || -> rusqlite::Result<u64> {
            let tx = Transaction::new_unchecked(&self.db, TransactionBehavior::Immediate)?;
            let mut dropped = 0;
            for table in ["reports", "drafts", "batching"] {
                dropped += tx.execute(&format!("DELETE FROM {table}"), [])? as u64;
            }
            for table in ["sent", "observers", "places", "state"] {
                tx.execute(&format!("DELETE FROM {table}"), [])?;
            }
            tx.commit()?;
            Ok(dropped)
        };
        let dropped = forget().map_err(SpoolError::Access)?;
        self.bytes = 0;
        Ok(dropped)
    }

    /// Keeps how this agent stands, for `tocsin status`.
    ///
    /// # Errors
    /// When the database fails.
    pub fn keep_state(&self, state: &State) -> Result<(), SpoolError> {
        let json = serde_json::to_string(state).expect("a state is plain data");
        self.db
            .execute("INSERT OR REPLACE INTO state VALUES (1, ?1)", [json])
            .map(|_| ())
            .map_err(SpoolError::Access)
    }

    /// How this agent stood when it last said so; `None` where none has, or it was of another version.
    ///
    /// # Errors
    /// When the database fails.
    pub fn state(&self) -> Result<Option<State>, SpoolError> {
        // One that is only read may be of a version that kept none.
        let kept = self
            .db
            .prepare("SELECT 1 FROM sqlite_master WHERE name = 'state'")
            .and_then(|mut statement| statement.exists([]))
            .map_err(SpoolError::Access)?;
        if !kept {
            return Ok(None);
        }
        let found = self.db.query_row("SELECT json FROM state", [], |row| row.get::<_, String>(0));
        let json = found.optional().map_err(SpoolError::Access)?;
        Ok(json.and_then(|json| serde_json::from_str(&json).ok()))
    }
}
