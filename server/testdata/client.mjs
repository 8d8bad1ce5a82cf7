// The published socket.io-client against a Tidemark server. Run by node_test.go, which gives the URLs.
import { createRequire } from 'node:module'
import assert from 'node:assert/strict'

const require = createRequire(process.env.TIDEMARK_NODE_MODULES + '/node_modules/')
const { io } = require('socket.io-client')
const { URL: url, PLAIN: plain, CONTROL: control } = process.env

const open = []
function connect(at = url, options = {}) {
  const socket = io(at, { transports: ['websocket'], forceNew: true, reconnectionDelay: 100, reconnectionDelayMax: 100, randomizationFactor: 0, ...options })
  open.push(socket)
  socket.seen = []
  socket.greeted = []
  socket.on('app-event', e => socket.seen.push(e.value))
  socket.on('connected', id => socket.greeted.push(id))
  return socket
}
const event = (emitter, name, ms = 15000) => new Promise((resolve, reject) => {
  const timer = setTimeout(() => reject(new Error('waited in vain for ' + name)), ms)
  emitter.once(name, (...args) => { clearTimeout(timer); resolve(args) })
})
const until = async (what, ok) => {
  for (let i = 0; !ok(); i++) {
    if (i > 1500) throw new Error('waited in vain for ' + what)
    await new Promise(r => setTimeout(r, 10))
  }
}
const tell = (what) => fetch(control + what).then(r => r.text())
async function call(socket, name, action, ...args) {
  const answer = await socket.timeout(15000).emitWithAck('client-request', { name, action, args })
  if (answer.error) throw Object.assign(new Error(answer.error.message), answer.error)
  return answer.result
}

const scenarios = {
  async 'a broken connection is recovered, with what was missed'() {
    const s = connect()
    await event(s, 'connected')
    await call(s, 'util', 'join', 'room')
    await tell('/notify?channel=room&n=1')
    await until('the first', () => s.seen.length === 1)
    const id = s.id
    const back = event(s, 'disconnect').then(() => event(s, 'connected'))
    await tell(`/away?id=${id}&channel=room&n=2&m=6`)
    await back
    assert.equal(s.recovered, true)
    assert.equal(s.id, id)
    assert.deepEqual(s.greeted, [id, id])
    assert.deepEqual(s.seen, [1, 2, 3, 4, 5])
    await tell('/notify?channel=room&n=6')
    await until('what comes after', () => s.seen.length === 6)
    assert.deepEqual(await call(s, 'util', 'channels'), [id, 'room'].sort())
    assert.equal(await call(s, 'util', 'user'), 'alice')
  },
  async 'again and again'() {
    const s = connect()
    await event(s, 'connected')
    await call(s, 'util', 'join', 'busy')
    const id = s.id
    for (let i = 0; i < 5; i++) {
      const back = event(s, 'disconnect').then(() => event(s, 'connected'))
      await tell(`/away?id=${id}&channel=busy&n=${10 * i}&m=${10 * i + 10}`)
      await back
      assert.equal(s.recovered, true)
    }
    assert.deepEqual(s.seen, Array.from({ length: 50 }, (_, i) => i))
  },
  async 'while events keep coming'() {
    const s = connect(url, { reconnectionDelay: 20, reconnectionDelayMax: 20 })
    await event(s, 'connected')
    await call(s, 'util', 'join', 'stream')
    const id = s.id
    const streamed = tell('/stream?channel=stream&n=4000')
    for (let i = 0; i < 10; i++) {
      const seen = s.seen.length
      await until('more', () => s.seen.length > seen + 5 || s.seen.length === 4000)
      const back = event(s, 'disconnect').then(() => event(s, 'connected'))
      await tell('/cut')
      await back
      assert.equal(s.recovered, true)
      assert.equal(s.id, id)
    }
    await streamed
    await until('the last', () => s.seen.length >= 4000)
    assert.deepEqual(s.seen, Array.from({ length: 4000 }, (_, i) => i))
  },
  async 'a goodbye is not recovered'() {
    const s = connect()
    await event(s, 'connected')
    const id = s.id
    s.disconnect()
    const back = event(s, 'connected')
    s.connect()
    await back
    assert.equal(s.recovered, false)
    assert.notEqual(s.id, id)
  },
  async 'a server without recovery'() {
    const s = connect(plain)
    await event(s, 'connected')
    const back = event(s, 'disconnect').then(() => event(s, 'connected'))
    await tell('/cut-plain')
    await back
    assert.ok(!s.recovered)
  },
  async 'binary arguments, answers and events'() {
    const s = connect(), other = connect()
    await Promise.all([event(s, 'connected'), event(other, 'connected')])
    await call(other, 'util', 'join', 'echoes')
    const heard = event(other, 'service-event')
    const sent = [Buffer.from([0, 1, 255]), { deep: [new Uint8Array([7])] }, 'text', Buffer.alloc(300000, 9)]
    const back = await call(s, 'util', 'echo', ...sent)
    const check = ([head, nested, text, big]) => {
      assert.deepEqual([...head], [0, 1, 255])
      assert.deepEqual([...nested.deep[0]], [7])
      assert.equal(text, 'text')
      assert.equal(Buffer.compare(Buffer.from(big), sent[3]), 0)
    }
    check(back)
    check((await heard)[0].result)
    assert.deepEqual(await call(s, 'util', 'echo', 1, null), [1, null])
  },
  async 'a binary event is replayed'() {
    const s = connect(url, { reconnectionDelay: 2000, reconnectionDelayMax: 2000 }), other = connect(url, { reconnectionDelay: 10, reconnectionDelayMax: 10 })
    await Promise.all([event(s, 'connected'), event(other, 'connected')])
    await call(s, 'util', 'join', 'echoes')
    const heard = event(s, 'service-event')
    const back = event(s, 'disconnect').then(() => event(s, 'connected'))
    const otherBack = event(other, 'disconnect').then(() => event(other, 'connected'))
    await tell(`/away?id=${s.id}&channel=none&n=0&m=0`)
    await otherBack
    await call(other, 'util', 'echo', Buffer.from([4, 5, 6]))
    await back
    assert.deepEqual([...(await heard)[0].result[0]], [4, 5, 6])
    assert.equal(s.recovered, true)
  },
  async 'a page that is loaded anew'() {
    const old = connect()
    await event(old, 'connected')
    await call(old, 'util', 'join', 'room')
    const token = crypto.randomUUID()
    old.emit('cnx-transfer-token', token)
    await call(old, 'util', 'channels') // the token has arrived
    const former = old.id
    old.disconnect()
    const s = connect()
    await event(s, 'connected')
    const refused = event(s, 'cnx-transfer-error')
    s.emit('cnx-transfer', former, s.id, 'guess')
    assert.deepEqual((await refused).slice(0, 2), [former, s.id])
    const done = event(s, 'cnx-transfer-ack')
    s.emit('cnx-transfer', former, s.id, token)
    assert.deepEqual((await done).slice(0, 2), [former, s.id])
    assert.deepEqual(await call(s, 'util', 'channels'), [s.id, 'room'].sort())
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
