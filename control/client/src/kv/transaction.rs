//! Reads and writes that are committed together.

use std::ops::Deref;
use std::time::Duration;

use flow::wire::catalog::{
    TransactionBegin, TransactionBegun, TransactionCommit, TransactionGet, TransactionRollback,
    TransactionScan, TransactionWrite,
};
use flow::wire::session::Done;

use super::{Entry, Expire, Expiry, Found, Isolation, Operation, Page, Put, Scan, Written, milliseconds};
use crate::{Client, ClientError};

/// A transaction that is open on the node of the client. Reads see what it has written itself; nobody else does before it is
/// committed. Dropping it rolls it back.
pub struct Transaction<C: Deref<Target = Client>> {
    client: C,
    number: u64,
    open: bool,
}

impl<C: Deref<Target = Client>> Transaction<C> {
    /// As [`Kv::begin`](super::Kv::begin), for a client that it may keep.
    pub fn begin(client: C, isolation: Isolation, timeout: Duration) -> Result<Self, ClientError> {
        let request = TransactionBegin { isolation, timeout_ms: milliseconds(timeout) };
        let TransactionBegun { transaction } = client.connection().call(request)?;
        Ok(Self { client, number: transaction, open: true })
    }

    /// What a key has; absent when there is no such key.
    pub fn get(&self, key: &str) -> Result<Option<Entry>, ClientError> {
        let request = TransactionGet { transaction: self.number, keys: vec![key.into()] };
        let mut found: Found = self.client.connection().call(request)?;
        Ok(found.entries.pop().flatten())
    }

    /// A page of entries in the order of their keys.
    pub fn scan(&self, scan: Scan) -> Result<Page, ClientError> {
        let Scan { prefix, after, limit, contents } = scan;
        let transaction = self.number;
        self.client.connection().call(TransactionScan { transaction, prefix, after, limit, contents })
    }

    /// Puts a key, once it is committed.
    pub fn put(&self, put: Put) -> Result<(), ClientError> {
        self.write(vec![Operation::Put(put)])
    }

    /// Deletes a key, once it is committed.
    pub fn delete(&self, key: &str) -> Result<(), ClientError> {
        self.write(vec![Operation::Delete(key.into())])
    }

    /// Changes when a key expires, once it is committed.
    pub fn expire(&self, key: &str, when: Expiry) -> Result<(), ClientError> {
        self.write(vec![Operation::Expire(Expire { key: key.into(), when })])
    }

    /// Adds operations. Of several about one key the last one counts.
    pub fn write(&self, operations: Vec<Operation>) -> Result<(), ClientError> {
        let request = TransactionWrite { transaction: self.number, operations };
        self.client.connection().call::<Done>(request).map(drop)
    }

    /// Carries everything out at once, or nothing when it conflicts with what others have written meanwhile. The versions are
    /// in the order of the keys.
    pub fn commit(mut self) -> Result<Written, ClientError> {
        self.open = false;
        self.client.connection().call(TransactionCommit { transaction: self.number })
    }

    /// Ends it without a trace.
    pub fn rollback(mut self) -> Result<(), ClientError> {
        self.open = false;
        self.client.connection().call::<Done>(TransactionRollback { transaction: self.number }).map(drop)
    }
}

impl<C: Deref<Target = Client>> Drop for Transaction<C> {
    fn drop(&mut self) {
        if self.open {
            // When the connection has ended, the node rolls it back by itself.
            drop(self.client.connection().send(TransactionRollback { transaction: self.number }));
        }
    }
}
