// A model of the guide's protocol in one page of JavaScript: rows in memory, shown at once, brought to the server when
// there is a connection. docs/protocol.md has all that it relies on; section 8 has a client's duties.
//
// It keeps nothing when the page is closed. A real offline client keeps `entries` in IndexedDB.

const T = meta => Date.parse(meta.deleted_at ?? meta.updated_at ?? meta.created_at)

// What says nothing about the write itself: it stays unsent and is pushed again.
const temporary = new Set(['disconnected', 'timeout', 'unavailable', 'limit'])

export function createModel(socket, name) {
  const entries = new Map() // uid -> { row, meta, dirty }; a deleted row has row null until the server knows
  const model = new EventTarget()
  const changed = () => model.dispatchEvent(new Event('change'))
  const refused = error => model.dispatchEvent(new CustomEvent('refused', { detail: error }))

  // call asks the server. An answer that does not come says nothing. Without a connection it
  // does not ask at all, for socket.io-client would keep the question and ask it much later.
  async function call(service, action, ...args) {
    const silence = { error: { code: 'disconnected', message: 'there was no answer' } }
    const request = { name: service, action, args }
    const answer = socket.connected ? await socket.timeout(20000).emitWithAck('client-request', request).catch(() => silence) : silence
    if (answer.error) throw answer.error
    return answer.result
  }

  // take stores what the server says, unless there is a later write of our own.
  // The answer to a write counts even if the server's clock set it back: `asked` is what we asked about.
  function take([row, meta], asked) {
    const mine = entries.get(meta.uid)
    if (mine && mine.meta !== asked && T(mine.meta) > T(meta)) return
    if (meta.deleted_at) entries.delete(meta.uid)
    else entries.set(meta.uid, { row, meta, dirty: false })
    changed()
  }

  // push sends a write and stores the verdict.
  async function push(uid, data) {
    const { meta } = entries.get(uid)
    try {
      if (meta.deleted_at) take(await call(name, 'deleteWithMeta', uid, meta.deleted_at), meta)
      else if (meta.updated_at) take(await call(name, 'updateWithMeta', uid, data, meta.updated_at), meta)
      else take(await call(name, 'createWithMeta', uid, data, meta.created_at), meta)
    } catch (error) {
      if (temporary.has(error.code)) return
      refused(error)
      if (entries.get(uid)?.meta === meta) entries.delete(uid) // and show the server's row again, if it has one
      await synchroniseOrWait()
    }
  }

  // write stores a write of this page, shows it, and sends it when there is a connection.
  function write(uid, row, stamps, data) {
    const before = entries.get(uid)?.meta
    entries.set(uid, { row, meta: { uid, created_at: null, updated_at: null, deleted_at: null, ...before, ...stamps }, dirty: true })
    changed()
    return socket.connected ? push(uid, data) : undefined
  }

  // stamp is the time of a write, later than the row's last.
  function stamp(uid) {
    const last = entries.has(uid) ? T(entries.get(uid).meta) : 0
    return new Date(Math.max(Date.now(), last + 1)).toISOString()
  }

  const whole = uid => {
    const { uid: _, ...data } = entries.get(uid).row ?? {}
    return data
  }

  // synchronise asks what has changed since we last heard, and what the server lacks.
  async function synchronise() {
    const dictionary = {}, asked = new Map()
    for (const [uid, { meta, dirty }] of entries) {
      dictionary[uid] = { ...meta, __dirty__: dirty }
      asked.set(uid, meta)
    }
    const steps = await call('sync', 'go', name, {}, dictionary)
    for (const tuple of [...steps.addClient, ...steps.updateClient]) take(tuple, asked.get(tuple[1].uid))
    for (const [uid, date] of steps.deleteClient) {
      const mine = entries.get(uid)
      if (mine && (mine.meta === asked.get(uid) || T(mine.meta) <= Date.parse(date))) entries.delete(uid)
    }
    changed()
    for (const { uid } of [...steps.addDatabase, ...steps.updateDatabase]) {
      if (entries.has(uid)) await push(uid, whole(uid))
    }
  }

  // What fails for want of a connection is done again at the next one.
  const synchroniseOrWait = () => synchronise().catch(error => { if (!temporary.has(error.code)) refused(error) })

  socket.on('service-event', event => {
    if (event.name === name && /^(create|update|delete)WithMeta$/.test(event.action)) take(event.result)
  })
  socket.on('connect', synchroniseOrWait)

  return Object.assign(model, {
    create(data) {
      const uid = uuidv7()
      return write(uid, { uid, ...data }, { created_at: stamp(uid) }, data)
    },
    update(uid, data) {
      const row = entries.get(uid)?.row
      return row && write(uid, { ...row, ...data }, { updated_at: stamp(uid) }, data)
    },
    remove(uid) {
      return entries.get(uid)?.row && write(uid, null, { deleted_at: stamp(uid) })
    },
    // all returns the rows, the oldest first: uids of version 7 sort by time.
    all() {
      return [...entries.values()].filter(e => e.row).sort((a, b) => (a.row.uid < b.row.uid ? -1 : 1))
    },
    unsent() {
      return [...entries.values()].filter(e => e.dirty).length
    },
  })
}

// uuidv7 makes a UUID of version 7 (RFC 9562): milliseconds, then chance.
function uuidv7() {
  const bytes = crypto.getRandomValues(new Uint8Array(16))
  new DataView(bytes.buffer).setBigUint64(0, BigInt(Date.now()) << 16n | BigInt(bytes[6]) << 8n | BigInt(bytes[7]))
  bytes[6] = bytes[6] & 0x0f | 0x70
  bytes[8] = bytes[8] & 0x3f | 0x80
  return [...bytes].map(b => b.toString(16).padStart(2, '0')).join('').replace(/^(.{8})(.{4})(.{4})(.{4})/, '$1-$2-$3-$4-')
}
