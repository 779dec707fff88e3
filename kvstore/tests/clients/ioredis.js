// ioredis against a running store: `node ioredis.js HOST PORT PASSWORD`, with NODE_PATH where it is.
//
// Each function below uses the client as its documentation shows. Whatever answers otherwise than Redis
// would ends the script with a stack trace and a code that is not 0. ioredis 5 speaks RESP2 only.

'use strict';

const assert = require('node:assert/strict');
const Redis = require('ioredis');

const [host, port, password] = process.argv.slice(2);
const BIG_BYTES = 4 << 20;
const opened = [];

function connect(options = {}) {
  const client = new Redis({ host, port: Number(port), password, retryStrategy: null, ...options });
  client.on('error', () => {}); // What was asked for fails as well, and is looked at.
  opened.push(client);
  return client;
}

async function authentication() {
  const stranger = connect({ password: undefined, enableReadyCheck: false });
  await assert.rejects(stranger.get('a'), /NOAUTH/);
  const admin = connect();
  await admin.call('ACL', 'SETUSER', 'js', 'on', '>secret', '~open:*', '+@read', '+info', '+ping');
  const reader = connect({ username: 'js', password: 'secret' });
  assert.equal(await reader.get('open:a'), null);
  await assert.rejects(reader.get('closed:a'), /NOPERM/);
  await assert.rejects(reader.set('open:a', '1'), /NOPERM/);
  assert.equal(await admin.call('ACL', 'DELUSER', 'js'), 1);
}

async function values() {
  const redis = connect();
  assert.equal(await redis.set('s', 'v', 'EX', 100, 'NX'), 'OK');
  assert.equal(await redis.set('s', 'w', 'NX'), null);
  assert.deepEqual(await redis.mget('s', 'none'), ['v', null]);
  assert.equal(await redis.hset('h', { a: 1, b: 2 }), 2);
  assert.deepEqual(await redis.hgetall('h'), { a: '1', b: '2' });
  assert.equal(await redis.zadd('z', 1, 'a', 2.5, 'b'), 2);
  assert.deepEqual(await redis.zrange('z', 0, -1, 'WITHSCORES'), ['a', '1', 'b', '2.5']);
  assert.equal(await redis.rpush('l', 1, 2, 3), 3);
  assert.deepEqual(await redis.lrange('l', 0, -1), ['1', '2', '3']);
  await assert.rejects(redis.incr('h'), /WRONGTYPE/);
}

async function pipelines() {
  const redis = connect({ enableAutoPipelining: true });
  const pipeline = redis.pipeline();
  for (let number = 0; number < 10000; number++) pipeline.set(`p:${number}`, number);
  pipeline.incr('h');
  const answers = await pipeline.exec();
  assert.ok(answers.slice(0, 10000).every(([error, answer]) => !error && answer === 'OK'));
  assert.match(answers[10000][0].message, /WRONGTYPE/);
  const gets = await Promise.all(Array.from({ length: 10000 }, (_, number) => redis.get(`p:${number}`)));
  assert.ok(gets.every((value, number) => value === String(number)));
}

async function transactions() {
  const [redis, other] = [connect(), connect()];
  const done = await redis.multi().set('t', 1).incr('t').get('t').exec();
  assert.deepEqual(done, [[null, 'OK'], [null, 2], [null, '2']]);
  await redis.watch('t');
  await other.incr('t');
  assert.equal(await redis.multi().set('t', 'lost').exec(), null);
  await redis.watch('t');
  assert.deepEqual(await redis.multi().incr('t').exec(), [[null, 4]]);
}

async function published() {
  const [redis, subscriber] = [connect(), connect()];
  const messages = new Promise((resolve) => {
    const got = [];
    const take = (...message) => got.push(message) === 2 && resolve(got);
    subscriber.on('message', take);
    subscriber.on('pmessage', take);
  });
  assert.equal(await subscriber.subscribe('news'), 1);
  assert.equal(await subscriber.psubscribe('n*s'), 2);
  assert.equal(await redis.publish('news', 'hello'), 2);
  assert.deepEqual(await messages, [['news', 'hello'], ['n*s', 'news', 'hello']]);
  assert.equal(await subscriber.unsubscribe('news'), 1);
}

async function someoneWaits(redis) {
  while (!/blocked_clients:[1-9]/.test(await redis.info('clients')));
}

async function blocking() {
  const [redis, waiter] = [connect(), connect()];
  const popped = waiter.blpop('other', 'queue', 0);
  await someoneWaits(redis);
  await redis.rpush('queue', 'job');
  assert.deepEqual(await popped, ['queue', 'job']);
  assert.equal(await redis.blpop('queue', 0.01), null);
}

async function streams() {
  const [redis, waiter] = [connect(), connect()];
  const ids = [];
  for (let number = 0; number < 10; number++) ids.push(await redis.xadd('stream', '*', 'number', number));
  assert.equal(await redis.xgroup('CREATE', 'stream', 'group', '0'), 'OK');
  const read = await redis.xreadgroup('GROUP', 'group', 'alice', 'COUNT', 4, 'STREAMS', 'stream', '>');
  assert.deepEqual(read[0][1].map(([id]) => id), ids.slice(0, 4));
  assert.equal(await redis.xack('stream', 'group', ids[0], ids[1]), 2);
  const claimed = await redis.xautoclaim('stream', 'group', 'bob', 0, '0');
  assert.deepEqual(claimed[1].map(([id]) => id), ids.slice(2, 4));
  const late = waiter.xread('BLOCK', 0, 'STREAMS', 'stream', '$');
  await someoneWaits(redis);
  const id = await redis.xadd('stream', '*', 'late', 1);
  assert.deepEqual(await late, [['stream', [[id, ['late', '1']]]]]);
}

async function scans() {
  const redis = connect();
  const found = new Set();
  for await (const keys of redis.scanStream({ match: 'p:*', count: 500 })) keys.forEach((key) => found.add(key));
  assert.equal(found.size, 10000);
  await redis.sadd('bigset', Array.from({ length: 1000 }, (_, number) => `m${number}`));
  const members = new Set();
  for await (const some of redis.sscanStream('bigset')) some.forEach((member) => members.add(member));
  assert.equal(members.size, 1000);
}

async function bigValues() {
  const redis = connect();
  const value = Buffer.alloc(BIG_BYTES, 'hawser\r\n');
  assert.equal(await redis.set('big', value), 'OK');
  assert.ok(value.equals(await redis.getBuffer('big')));
}

async function main() {
  await connect().flushall();
  const { version } = require('ioredis/package.json');
  for (const check of [
    authentication,
    values,
    pipelines,
    transactions,
    published,
    blocking,
    streams,
    scans,
    bigValues,
  ]) {
    await check();
    console.log(`ioredis ${version}: ${check.name}`);
  }
  opened.forEach((client) => client.disconnect());
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
