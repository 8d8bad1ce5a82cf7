// A small model of a JavaScript client of the guide's protocol: what such a client sends, and what it
// does with what it gets, with its stores in memory. It exists to hold our server against a client that is not
// ours; it is not a client to build on.

const T = m => m && (m.deleted_at ?? m.updated_at ?? m.created_at ?? null)
const ms = d => (d == null ? null : new Date(d).getTime())
const newer = (a, b) => ms(T(a)) !== null && ms(T(b)) !== null && ms(T(a)) > ms(T(b))
const same = (a, b) => ['created_at', 'updated_at', 'deleted_at'].every(k => ms(a?.[k]) === ms(b?.[k]))
const without = (o, ...keys) => Object.fromEntries(Object.entries(o).filter(([k]) => !keys.includes(k)))

export function uuidv7() {
   const b = crypto.getRandomValues(new Uint8Array(16))
   const now = BigInt(Date.now())
   for (let i = 0; i < 6; i++) b[i] = Number((now >> BigInt(8 * (5 - i))) & 0xffn)
   b[6] = (b[6] & 0x0f) | 0x70
   b[8] = (b[8] & 0x3f) | 0x80
   const h = [...b].map(x => x.toString(16).padStart(2, '0')).join('')
   return [h.slice(0, 8), h.slice(8, 12), h.slice(12, 16), h.slice(16, 20), h.slice(20)].join('-')
}

export function createClient(socket, { timeout = 20000 } = {}) {
   const handlers = new Map(), notices = new Map()
   const app = {
      socket, isConnected: undefined, disconnectedDate: null,
      call(name, action, ...args) {
         return new Promise((resolve, reject) => {
            const drop = () => reject({ code: 'disconnected', message: 'socket has been disconnected' })
            const timer = setTimeout(() => { socket.off('disconnect', drop); reject({ code: 'timeout', message: 'operation has timed out' }) }, timeout)
            socket.once('disconnect', drop)
            socket.emit('client-request', { name, action, args }, answer => {
               clearTimeout(timer)
               socket.off('disconnect', drop)
               answer.error ? reject(answer.error) : resolve(answer.result)
            })
         })
      },
      on(name, action, fn) { handlers.set(name + '.' + action, fn) },
      onNotice(type, fn) { notices.set(type, fn) },
   }
   socket.on('service-event', e => handlers.get(e.name + '.' + e.action)?.(e.result))
   socket.on('app-event', e => notices.get(e.type)?.(e.value))
   return app
}

// offlinePlugin must be installed before the socket connects.
export function offlinePlugin(app) {
   const models = []
   let queue = Promise.resolve() // one mutex for all models
   const exclusive = fn => (queue = queue.then(fn, fn))
   app.synchronizeAll = () => Promise.all(models.map(m => m.synchronizeAll()))
   app.createOfflineModel = name => {
      const m = createOfflineModel(app, name, exclusive)
      models.push(m)
      return m
   }
   app.socket.on('connect', () => {
      app.isConnected = true
      app.synced = app.synchronizeAll().then(() => { app.disconnectedDate = null })
      app.synced.catch(() => {})
   })
   app.socket.on('disconnect', () => { app.isConnected = false; app.disconnectedDate = new Date() })
   return app
}

function matches(value, where) {
   return Object.entries(where).every(([k, w]) => {
      const v = value[k]
      if (w !== null && typeof w === 'object') {
         if (v === null || v === undefined) return false
         return (w.gte === undefined || v >= w.gte) && (w.gt === undefined || v > w.gt) && (w.lte === undefined || v <= w.lte) && (w.lt === undefined || v < w.lt)
      }
      return v === w
   })
}

function createOfflineModel(app, name, exclusive) {
   const values = new Map(), metadata = new Map(), wheres = new Map()
   const clean = m => ({ ...m, __dirty__: false })
   const forget = uid => { values.delete(uid); metadata.delete(uid) }
   const take = (v, m) => { if (v) values.set(v.uid, { ...v }); if (m?.uid) metadata.set(m.uid, clean(m)) }

   const upserted = ([v, m]) => {
      if (newer(metadata.get(m.uid), m)) return
      if (m.deleted_at) forget(m.uid)
      else take(v, m)
   }
   app.on(name, 'createWithMeta', upserted)
   app.on(name, 'updateWithMeta', upserted)
   app.on(name, 'deleteWithMeta', ([v, m]) => {
      const uid = v?.uid ?? m.uid
      if (newer(metadata.get(uid), m)) return
      if (v) values.delete(uid)
      metadata.delete(uid)
   })

   const model = {
      values, metadata, errors: [],
      async create(data) {
         const uid = uuidv7(), now = new Date().toISOString()
         values.set(uid, { uid, ...data })
         metadata.set(uid, { uid, created_at: now, __dirty__: true })
         const current = () => { const m = metadata.get(uid); return m && ms(m.created_at) === ms(now) && !m.updated_at && !m.deleted_at }
         if (app.isConnected) {
            app.call(name, 'createWithMeta', uid, data, now).then(([v, m]) => {
               if (!current()) return
               if (m?.deleted_at) forget(uid)
               else take(v, m)
            }, e => { model.errors.push(e); if (current()) forget(uid) })
         }
         return values.get(uid)
      },
      async update(uid, data) {
         const before = values.get(uid)
         if (!before) return undefined
         const previous = metadata.get(uid), now = new Date().toISOString()
         values.set(uid, { ...before, ...data })
         metadata.set(uid, { ...(previous ?? { uid, created_at: now }), updated_at: now, __dirty__: true })
         const current = () => ms(metadata.get(uid)?.updated_at) === ms(now)
         if (app.isConnected) {
            app.call(name, 'updateWithMeta', uid, data, now).then(([v, m]) => {
               if (!current()) return
               if (m?.deleted_at) forget(uid)
               else take(v, m)
            }, e => {
               model.errors.push(e)
               if (!current()) return
               const now = values.get(uid)
               if (now) values.set(uid, { ...now, ...Object.fromEntries(Object.keys(data).map(k => [k, before[k]])) })
               metadata.set(uid, { ...metadata.get(uid), updated_at: previous?.updated_at ?? null, __dirty__: previous?.__dirty__ ?? false })
            })
         }
         return values.get(uid)
      },
      async remove(uid) {
         const v = values.get(uid)
         if (!v) return
         const now = new Date().toISOString()
         values.set(uid, { ...v, __deleted__: true })
         metadata.set(uid, { ...(metadata.get(uid) ?? { uid, created_at: now }), deleted_at: now, __dirty__: true })
         const current = () => ms(metadata.get(uid)?.deleted_at) === ms(now)
         if (app.isConnected) {
            app.call(name, 'deleteWithMeta', uid, now).then(([v, m]) => {
               if (!current() || newer(metadata.get(uid), m)) return
               if (m.deleted_at && ms(m.deleted_at) !== ms(now)) forget(uid)
               else take(m.deleted_at ? null : v && without(v, '__deleted__'), m)
            }, e => {
               model.errors.push(e)
               if (!current()) return
               values.set(uid, without(values.get(uid), '__deleted__'))
               metadata.set(uid, { ...metadata.get(uid), deleted_at: null, __dirty__: false })
            })
         }
      },
      findByUID(uid) { return values.get(uid) },
      findWhere(where) { return [...values.values()].filter(v => !v.__deleted__ && matches(v, where)).sort((a, b) => (a.uid < b.uid ? -1 : 1)) },
      async addScope(where) {
         wheres.set(JSON.stringify(Object.entries(where).sort()), where)
         if (app.isConnected) await model.synchronize(where)
      },
      removeScope: async where => wheres.delete(JSON.stringify(Object.entries(where).sort())),
      reset() { values.clear(); metadata.clear(); wheres.clear(); model.errors = [] },
      synchronizeAll: () => Promise.all([...wheres.values()].map(w => model.synchronize(w))),
      synchronize: where => exclusive(() => synchronize(where)),
   }

   async function synchronize(where) {
      const dict = {}
      const include = uid => {
         if (!metadata.has(uid)) metadata.set(uid, { uid, created_at: new Date().toISOString(), __dirty__: true })
         dict[uid] = { ...metadata.get(uid) }
      }
      for (const v of values.values()) if (matches(v, where)) include(v.uid)
      for (const m of metadata.values()) {
         if (!m.__dirty__ || dict[m.uid]) continue
         const v = values.get(m.uid)
         if (v && (!v.__deleted__ || matches(v, where))) include(m.uid)
         else if (!v && m.deleted_at && Object.keys(where).length === 0) include(m.uid)
      }
      const r = await app.call('sync', 'go', name, where, dict)
      const unchanged = uid => same(metadata.get(uid), dict[uid])
      for (const [v, m] of r.addClient) {
         const local = metadata.get(v.uid)
         if (local && !newer(m, local) && !(local.deleted_at && !m.deleted_at)) continue
         take(v, m)
      }
      for (const [uid, at] of r.deleteClient) {
         if (unchanged(uid)) forget(uid)
         else if (ms(T(metadata.get(uid))) > ms(at)) continue
         else { values.delete(uid); metadata.set(uid, { uid, deleted_at: at, __dirty__: false }) }
      }
      for (const [v, m] of r.updateClient) {
         if (!unchanged(v.uid) && newer(metadata.get(v.uid), m)) continue
         take(without(v, '__deleted__'), m)
      }
      const push = async (uid, action, stamp, mayForget) => {
         const v = values.get(uid)
         try {
            const [value, m] = await app.call(name, action, uid, without(v, 'uid', '__deleted__'), stamp)
            if (!unchanged(uid)) return
            if (m?.deleted_at) forget(uid)
            else take(value, m)
         } catch (e) {
            model.errors.push(e)
            if (mayForget) forget(uid)
         }
      }
      for (const c of r.addDatabase) {
         const v = c.uid && values.get(c.uid)
         if (v && unchanged(c.uid) && matches(v, where)) await push(c.uid, 'createWithMeta', c.created_at, true)
      }
      for (const c of r.updateDatabase) {
         if (values.has(c.uid) && unchanged(c.uid)) await push(c.uid, 'updateWithMeta', c.updated_at, false)
      }
   }
   return model
}
