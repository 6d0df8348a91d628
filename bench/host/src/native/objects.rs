//! Objects, whole or not at all.

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::path::Path;
use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use object_store::aws::AmazonS3Builder;
use object_store::path::Path as Key;
use object_store::{ObjectStoreExt as _, PutPayload};

use crate::Work;

const KEY: &str = "key-of-the-benchmark";
/// Read at a time.
const PIECE: usize = 64 * 1024;
/// As realm has it.
const PART: usize = 5 * 1024 * 1024;

pub(crate) fn folder(work: &Work) -> Duration {
    let value = vec![7_u8; work.bytes];
    let folder = Path::new(&work.place);
    fs::create_dir_all(folder).unwrap();
    let put = || {
        let new = folder.join("new");
        let mut file = File::create(&new).unwrap();
        for piece in value.chunks(PIECE) {
            file.write_all(piece).unwrap();
        }
        file.sync_all().unwrap();
        fs::rename(new, folder.join(KEY)).unwrap();
        File::open(folder).unwrap().sync_all().unwrap();
    };
    let mut buffer = vec![0; PIECE];
    let mut fetch = || {
        let mut file = File::open(folder.join(KEY)).unwrap();
        let mut n_bytes = 0;
        loop {
            match file.read(&mut buffer).unwrap() {
                0 => break,
                n => n_bytes += n,
            }
        }
        assert_eq!(n_bytes, work.bytes);
    };
    put();
    let began = Instant::now();
    for _ in 0..work.n {
        if work.operation == "put" {
            put();
        } else {
            fetch();
        }
    }
    began.elapsed()
}

pub(crate) async fn s3(work: &Work) -> Duration {
    let place: Vec<_> = work.place.split(' ').collect();
    let &[endpoint, bucket, region, user, password] = place.as_slice() else {
        panic!("ENDPOINT BUCKET REGION USER PASSWORD");
    };
    let store = AmazonS3Builder::new()
        .with_endpoint(endpoint)
        .with_bucket_name(bucket)
        .with_region(region)
        .with_access_key_id(user)
        .with_secret_access_key(password)
        .with_allow_http(true)
        .build()
        .unwrap();
    let key = Key::from(KEY);
    let value = vec![7_u8; work.bytes];
    let put = async || {
        let mut parts = store.put_multipart(&key).await.unwrap();
        for part in value.chunks(PART) {
            let payload = PutPayload::from(part.to_vec());
            parts.put_part(payload).await.unwrap();
        }
        parts.complete().await.unwrap();
    };
    put().await;
    let began = Instant::now();
    for _ in 0..work.n {
        if work.operation == "put" {
            put().await;
        } else {
            let mut stream = store.get(&key).await.unwrap().into_stream();
            let mut n_bytes = 0;
            while let Some(piece) = stream.next().await {
                n_bytes += piece.unwrap().len();
            }
            assert_eq!(n_bytes, work.bytes);
        }
    }
    began.elapsed()
}
