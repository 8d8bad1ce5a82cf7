import { createModel } from './model.js'

// Only websockets are served, not the long polling that socket.io-client begins with by default.
const socket = io({ transports: ['websocket'], reconnectionDelayMax: 2000 })
const posts = createModel(socket, 'post')
const $ = id => document.getElementById(id)

$('add').addEventListener('submit', event => {
  event.preventDefault()
  const form = event.target
  posts.create({ title: form.title.value, content: form.content.value || null })
  form.reset()
  form.title.focus()
})

$('online').addEventListener('click', () => {
  if (socket.active) socket.disconnect()
  else socket.connect()
  showStatus()
})

posts.addEventListener('change', show)
posts.addEventListener('refused', event => {
  $('refused').textContent = `The server did not accept that (${event.detail.code}): ${event.detail.message}`
})
for (const name of ['connect', 'disconnect']) socket.on(name, showStatus)
socket.io.on('reconnect_attempt', showStatus)

// show brings the list in step with the model, and leaves alone the field that is being edited.
function show() {
  const rows = posts.all()
  const kept = new Set(rows.map(({ row }) => row.uid))
  for (const item of [...$('posts').children]) if (!kept.has(item.dataset.uid)) item.remove()
  rows.forEach(({ row, dirty }, i) => {
    const item = $('posts').querySelector(`[data-uid="${CSS.escape(row.uid)}"]`) ?? newItem(row.uid)
    if ($('posts').children[i] !== item) $('posts').insertBefore(item, $('posts').children[i] ?? null)
    for (const field of ['title', 'content']) {
      const input = item.querySelector(`[name=${field}]`)
      if (input !== document.activeElement) input.value = row[field] ?? ''
    }
    item.querySelector('button').ariaLabel = `Delete ${row.title}`
    item.classList.toggle('unsent', dirty)
  })
  $('empty').hidden = rows.length > 0
  showStatus()
}

function newItem(uid) {
  const item = $('post').content.firstElementChild.cloneNode(true)
  item.dataset.uid = uid
  item.addEventListener('change', event => {
    posts.update(uid, { [event.target.name]: event.target.value || (event.target.name === 'content' ? null : '') })
  })
  item.addEventListener('keydown', event => { if (event.key === 'Enter' && event.target.matches('input')) event.target.blur() })
  item.querySelector('button').addEventListener('click', () => posts.remove(uid))
  return item
}

function showStatus() {
  const state = socket.connected ? 'connected' : socket.active ? 'connecting' : 'offline'
  const unsent = posts.unsent()
  $('status').className = state
  $('status').textContent = { connected: 'Connected', connecting: 'Connecting…', offline: 'Offline' }[state] + (unsent ? `, ${unsent} unsent` : '')
  $('online').textContent = socket.active ? 'Go offline' : 'Go online'
}

show()
