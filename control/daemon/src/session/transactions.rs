//! Transactions of one client, which end with its connection.

use catalog::{CatalogError, Isolation, Scan};
use flow::wire::Message;
use flow::wire::catalog::*;
use flow::wire::session::{Done, Failure};

use super::Session;
use crate::failure;
use crate::kv::translate;

impl Session {
    /// Answers a message about a transaction. What the catalog refuses is an answer too.
    pub(super) async fn transact(&self, message: Message) -> Result<Message, Failure> {
        let name = message.name();
        match self.carry_out(message).await {
            Ok(Some(answer)) => Ok(answer),
            Ok(None) => Err(failure::unexpected("a message about a transaction", name)),
            Err(error) => Ok(translate::refused(&error).into()),
        }
    }

    /// The answer; `None` to what is no question about a transaction.
    async fn carry_out(&self, message: Message) -> Result<Option<Message>, CatalogError> {
        let transactions = &self.node.transactions;
        Ok(Some(match message {
            Message::TransactionBegin(begin) => {
                TransactionBegun { transaction: self.begin(begin).await? }.into()
            }
            Message::TransactionGet(TransactionGet { transaction, keys }) => {
                self.check_transaction(transaction)?;
                let entries = transactions.get(transaction, &keys).await?;
                translate::found(catalog::Found { revision: 0, entries, stale: false }).into()
            }
            Message::TransactionScan(TransactionScan { transaction, prefix, after, limit, contents }) => {
                self.check_transaction(transaction)?;
                let scan = Scan { prefix, after, limit: limit as usize, contents };
                translate::page(transactions.scan(transaction, &scan).await?).into()
            }
            Message::TransactionWrite(TransactionWrite { transaction, operations }) => {
                self.check_transaction(transaction)?;
                let operations = operations.into_iter().map(translate::operation).collect();
                transactions.write(transaction, operations).await?;
                Done {}.into()
            }
            Message::TransactionCommit(TransactionCommit { transaction }) => {
                self.check_transaction(transaction)?;
                self.holdings.remove_transaction(transaction);
                translate::written(transactions.commit(transaction).await?).into()
            }
            Message::TransactionRollback(TransactionRollback { transaction }) => {
                if self.holdings.remove_transaction(transaction) {
                    transactions.roll_back(transaction);
                }
                Done {}.into()
            }
            _ => return Ok(None),
        }))
    }

    async fn begin(&self, begin: TransactionBegin) -> Result<u64, CatalogError> {
        let TransactionBegin { isolation, timeout_ms } = begin;
        self.holdings.check_room_for_transaction()?;
        let isolation = match isolation {
            TransactionIsolation::ReadCommitted => Isolation::ReadCommitted,
            TransactionIsolation::Snapshot => Isolation::Snapshot,
            TransactionIsolation::Serializable => Isolation::Serializable,
        };
        let transactions = &self.node.transactions;
        let number = transactions.begin(self.node.catalog.clone(), isolation, timeout_ms).await?;
        if !self.holdings.add_transaction(number) {
            transactions.roll_back(number);
            return Err(CatalogError::NoTransaction { number });
        }
        Ok(number)
    }

    fn check_transaction(&self, number: u64) -> Result<(), CatalogError> {
        if self.holdings.has_transaction(number) {
            Ok(())
        } else {
            Err(CatalogError::NoTransaction { number })
        }
    }
}
