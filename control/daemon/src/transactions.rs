//! Transactions that are open on this node, for every door.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use catalog::{Catalog, CatalogError, Entry, Isolation, Operation, Page, Scan, Transaction, Written};
use flow::limits::TRANSACTIONS_MAX;

use crate::node::random_number;

/// Transactions by numbers that cannot be guessed: whoever knows one may use it. One that is over its time ends by itself.
#[derive(Default)]
pub(crate) struct Transactions(Mutex<BTreeMap<u64, Arc<Open>>>);

struct Open {
    until: Instant,
    /// What is asked of one transaction is done one after another. `None` once it is committed.
    transaction: tokio::sync::Mutex<Option<Transaction>>,
}

impl Transactions {
    /// Begins a transaction and gives its number.
    pub(crate) async fn begin(
        &self,
        catalog: Arc<dyn Catalog>,
        isolation: Isolation,
        timeout_ms: u64,
    ) -> Result<u64, CatalogError> {
        self.check_room()?;
        let transaction = Transaction::begin(catalog, isolation, timeout_ms).await?;
        let until = Instant::now() + Duration::from_millis(timeout_ms);
        let mut open = self.lock();
        let mut number = random_number();
        while number == 0 || open.contains_key(&number) {
            number = random_number();
        }
        open.insert(
            number,
            Arc::new(Open { until, transaction: tokio::sync::Mutex::new(Some(transaction)) }),
        );
        Ok(number)
    }

    /// As [`Transaction::get`].
    pub(crate) async fn get(&self, number: u64, keys: &[String]) -> Result<Vec<Option<Entry>>, CatalogError> {
        let open = self.open(number)?;
        let mut transaction = open.transaction.lock().await;
        transaction.as_mut().ok_or_else(|| ended(number))?.get(keys).await
    }

    /// As [`Transaction::scan`].
    pub(crate) async fn scan(&self, number: u64, scan: &Scan) -> Result<Page, CatalogError> {
        let open = self.open(number)?;
        let mut transaction = open.transaction.lock().await;
        transaction.as_mut().ok_or_else(|| ended(number))?.scan(scan).await
    }

    /// Adds operations. Those before one that is refused are added.
    pub(crate) async fn write(&self, number: u64, operations: Vec<Operation>) -> Result<(), CatalogError> {
        let open = self.open(number)?;
        let mut transaction = open.transaction.lock().await;
        let transaction = transaction.as_mut().ok_or_else(|| ended(number))?;
        operations.into_iter().try_for_each(|operation| transaction.write(operation))
    }

    /// Carries a transaction out and ends it, however that turns out.
    pub(crate) async fn commit(&self, number: u64) -> Result<Written, CatalogError> {
        let open = self.lock().remove(&number).ok_or_else(|| ended(number))?;
        let transaction = open.transaction.lock().await.take();
        transaction.ok_or_else(|| ended(number))?.commit().await
    }

    /// Ends a transaction without a trace; whether it was open.
    pub(crate) fn roll_back(&self, number: u64) -> bool {
        let ended = self.lock().remove(&number);
        ended.is_some()
    }

    /// Ends those that are over their time.
    pub(crate) fn end_late(&self) {
        let now = Instant::now();
        let mut open = self.lock();
        let late: Vec<Arc<Open>> =
            open.extract_if(.., |_, open| open.until <= now).map(|(_, open)| open).collect();
        drop(open);
        drop(late);
    }

    fn open(&self, number: u64) -> Result<Arc<Open>, CatalogError> {
        self.lock().get(&number).cloned().ok_or_else(|| ended(number))
    }

    fn check_room(&self) -> Result<(), CatalogError> {
        self.end_late();
        let found = self.lock().len() + 1;
        let what = "transactions that are open at once";
        if found > TRANSACTIONS_MAX {
            return Err(CatalogError::TooLarge { what, found, most: TRANSACTIONS_MAX });
        }
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, Arc<Open>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn ended(number: u64) -> CatalogError {
    CatalogError::NoTransaction { number }
}

#[cfg(test)]
mod tests {
    use catalog::{Content, Embedded, Put};

    use super::*;

    fn run<T>(test: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(test)
    }

    fn put(key: &str) -> Operation {
        Operation::Put(Put::new(key, Content::Value(b"x".to_vec())))
    }

    #[test]
    fn a_transaction_is_used_by_its_number_and_ends_once() {
        let directory = tempfile::tempdir().unwrap();
        let catalog: Arc<dyn Catalog> = Arc::new(Embedded::open(directory.path()).unwrap());
        run(async {
            let transactions = Transactions::default();
            let number = transactions.begin(catalog.clone(), Isolation::Snapshot, 60_000).await.unwrap();
            transactions.write(number, vec![put("a"), put("b")]).await.unwrap();
            let keys = ["a".to_owned(), "c".to_owned()];
            let found = transactions.get(number, &keys).await.unwrap();
            assert!(found[0].is_some() && found[1].is_none());
            assert_eq!(catalog.count("", Default::default()).await.unwrap(), 0);
            assert_eq!(transactions.commit(number).await.unwrap().versions, [1, 1]);
            assert!(matches!(transactions.commit(number).await, Err(CatalogError::NoTransaction { .. })));
            let number = transactions.begin(catalog.clone(), Isolation::Snapshot, 60_000).await.unwrap();
            transactions.write(number, vec![put("d")]).await.unwrap();
            assert!(transactions.roll_back(number) && !transactions.roll_back(number));
            assert_eq!(catalog.count("", Default::default()).await.unwrap(), 2);
        });
    }

    #[test]
    fn there_are_only_so_many_and_the_late_go() {
        let directory = tempfile::tempdir().unwrap();
        let catalog: Arc<dyn Catalog> = Arc::new(Embedded::open(directory.path()).unwrap());
        run(async {
            let transactions = Transactions::default();
            let begin =
                |timeout_ms| transactions.begin(catalog.clone(), Isolation::ReadCommitted, timeout_ms);
            let late = begin(1).await.unwrap();
            std::thread::sleep(Duration::from_millis(2));
            for _ in 0..TRANSACTIONS_MAX {
                begin(60_000).await.unwrap();
            }
            assert!(matches!(begin(60_000).await, Err(CatalogError::TooLarge { .. })));
            assert!(matches!(transactions.get(late, &[]).await, Err(CatalogError::NoTransaction { .. })));
        });
    }
}
