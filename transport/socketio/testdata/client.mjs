// Drives the published socket.io-client against a Tidemark handler. Run by
// node_test.go, which gives the URLs and answers the calls made here.
import { createRequire } from 'node:module'
import { once } from 'node:events'
import assert from 'node:assert/strict'

const require = createRequire(process.env.TIDEMARK_NODE_MODULES + '/node_modules/')
const { io, Manager } = require('socket.io-client')
const { URL: url, SHORT: shortURL, CONTROL: control } = process.env

const open = []
function connect(options = {}, at = url) {
  const socket = io(at, { transports: ['websocket'], forceNew: true, reconnectionDelay: 10, reconnectionDelayMax: 50, randomizationFactor: 0, ...options })
  open.push(socket)
  return socket
}
const event = (emitter, name, ms = 8000) => new Promise((resolve, reject) => {
  const timer = setTimeout(() => reject(new Error('waited in vain for ' + name)), ms)
  emitter.once(name, (...args) => { clearTimeout(timer); resolve(args) })
})
const call = (socket, ...args) => socket.timeout(8000).emitWithAck(...args)
const tell = (what) => fetch(control + what).then((r) => r.text())

const scenarios = {
  async 'connects and is greeted'() {
    const s = connect()
    const greeted = event(s, 'connected')
    await event(s, 'connect')
    assert.deepEqual(await greeted, [s.id])
    assert.ok(!s.recovered)
  },
  async 'acks both ways'() {
    const s = connect()
    s.on('question', (n, answer) => answer({ result: n + 1 }))
    assert.deepEqual(await call(s, 'ask me', 41), { answer: [{ result: 42 }] })
    assert.deepEqual(await call(s, 'echo', 'a', 1, null), ['a', 1, null])
  },
  async '1000 acks in flight'() {
    const s = connect()
    await event(s, 'connect')
    const all = await Promise.all(Array.from({ length: 1000 }, (_, i) => call(s, 'echo', i)))
    all.forEach((r, i) => assert.deepEqual(r, [i]))
  },
  async 'dates, undefined, null, NaN and unicode'() {
    const s = connect()
    const sent = [new Date(0), undefined, null, NaN, { u: undefined, n: null }, 'é 日本 \u2028 😀 "\\', -0, 1e21, 0.1]
    const want = ['1970-01-01T00:00:00.000Z', null, null, null, { n: null }, 'é 日本 \u2028 😀 "\\', 0, 1e21, 0.1]
    assert.deepEqual(await call(s, 'echo', ...sent), want)
  },
  async 'binary both ways'() {
    const s = connect()
    const [head, nested, tail] = await call(s, 'echo', Buffer.from([0, 1, 255]), { deep: [new Uint8Array([7])] }, 'text')
    assert.deepEqual([...head], [0, 1, 255])
    assert.deepEqual([...nested.deep[0]], [7])
    assert.equal(tail, 'text')
    const back = event(s, 'binary event')
    s.emit('send binary')
    const [bytes] = await back
    assert.equal(bytes.length, 200000)
    assert.deepEqual(await call(s, 'echo', 'after'), ['after'])
  },
  async 'a big argument'() {
    const s = connect()
    const text = 'x'.repeat(3_000_000)
    const [back] = await call(s, 'echo', text)
    assert.equal(back, text)
  },
  async 'reconnects after a cut and sends what waited'() {
    const s = connect()
    await event(s, 'connect')
    const first = s.id
    const gone = event(s, 'disconnect')
    await tell('/cut')
    const [reason] = await gone
    assert.match(reason, /^transport (close|error)$/)
    assert.deepEqual(await call(s, 'echo', 'buffered'), ['buffered'])
    assert.notEqual(s.id, first)
  },
  async 'a pending call fails when the line breaks'() {
    const s = connect()
    await event(s, 'connect')
    const failed = assert.rejects(s.emitWithAck('never'), /disconnected/)
    await tell('/cut')
    await failed
  },
  async 'unknown namespace is refused, the main one goes on'() {
    const manager = new Manager(url, { transports: ['websocket'] })
    const admin = manager.socket('/admin'), main = manager.socket('/')
    open.push(admin, main)
    const [[error]] = await Promise.all([event(admin, 'connect_error'), event(main, 'connect')])
    assert.equal(error.message, 'Invalid namespace')
    assert.deepEqual(await call(main, 'echo', 1), [1])
  },
  async 'auth payload'() {
    const s = connect({ auth: { token: 'good', n: [1] } })
    assert.deepEqual(await call(s, 'auth'), [{ token: 'good', n: [1] }])
  },
  async 'refusal'() {
    const s = connect({ auth: { token: 'bad' } })
    const [error] = await event(s, 'connect_error')
    assert.equal(error.message, 'bad token')
    assert.deepEqual(error.data, { code: 'denied' })
    assert.equal(s.active, false)
  },
  async 'too big a message ends the connection, not the client'() {
    const s = connect({}, shortURL)
    await event(s, 'connect')
    const gone = event(s, 'disconnect')
    const back = gone.then(() => event(s, 'connect'))
    s.emit('echo', 'x'.repeat(2_000_000))
    const [reason, detail] = await gone
    assert.match(reason, /^transport (close|error)$/)
    if (reason === 'transport close') assert.equal(detail.context.code, 1009)
    await back
  },
  async 'heartbeats over short intervals'() {
    const s = connect({}, shortURL)
    await event(s, 'connect')
    let pings = 0
    s.io.on('ping', () => pings++)
    s.on('disconnect', (reason) => { pings = reason })
    while (pings !== 5) await event(s.io, 'ping')
    assert.deepEqual(await call(s, 'echo', 1), [1])
  },
  async 'a session is resumed with what it missed'() {
    const s = connect()
    await event(s, 'connect')
    assert.deepEqual(await call(s, 'make resumable'), ['ok'])
    const back = event(s, 'disconnect').then(() => event(s, 'connect'))
    await tell('/cut')
    await back
    const id = s.id
    const seen = []
    s.on('missed', (n) => seen.push(n))
    const again = event(s, 'disconnect').then(() => event(s, 'connect'))
    await tell('/cut')
    await again
    assert.equal(s.recovered, true)
    assert.equal(s.id, id)
    assert.deepEqual(seen, [1, 2])
  },
  async 'deep or repeated payloads get an error and no cut'() {
    const s = connect()
    let deep = 1
    for (let i = 0; i < 20; i++) deep = [deep]
    const answer = await call(s, 'echo', deep)
    assert.equal(answer.error.code, 'too-large')
    assert.deepEqual(await call(s, 'echo', 1), [1])
  },
  async 'the server says goodbye: the client stays away'() {
    const s = connect()
    await event(s, 'connect')
    const gone = event(s, 'disconnect')
    s.emit('dismiss me')
    assert.deepEqual((await gone)[0], 'io server disconnect')
    assert.equal(s.active, false)
  },
  async 'the client says goodbye'() {
    const s = connect()
    await event(s, 'connect')
    const id = s.id
    s.disconnect()
    assert.equal(await tell('/reason?id=' + id), 'client namespace disconnect')
  },
  async 'a server shuts down, the client finds the next'() {
    const s = connect()
    await event(s, 'connect')
    const gone = event(s, 'disconnect')
    const back = gone.then(() => event(s, 'connect'))
    await tell('/restart')
    assert.match((await gone)[0], /^transport (close|error)$/)
    await back
    assert.deepEqual(await call(s, 'echo', 1), [1])
  },
}

let failed = 0
for (const [name, run] of Object.entries(scenarios)) {
  try {
    await run()
    console.log('ok', name)
  } catch (error) {
    failed++
    console.log('FAIL', name, error)
  }
  for (const s of open.splice(0)) s.disconnect()
}
process.exit(failed ? 1 : 0)
